"""A streaming sketch of how a weight's gradient varies over samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

TOKENS = 512  # as many at a time: larger products are faster, and float64 copies of them take memory
DRAWN = 0  # seed of the test matrices: the same in every process, so that their sketches add up


@dataclass(frozen=True)
class MomentSketch:
    """The running sums `sum(G_i G_i^T)` and `sum(G_i^T G_i)` over samples i, with G_i = g_i^T x_i a sample's gradient.

    The mean gradient cancels where samples disagree, as they do between classes; these sums do not. They are the two
    marginals of the empirical Fisher matrix. Each is kept as its product with a fixed random matrix (Nystroem; Tropp,
    Yurtsever, Udell, Cevher 2017, "Fixed-rank approximation of a positive-semidefinite matrix from streaming data"):
    memory O((out + in) size), and neither a G_i nor a past batch is held. Sums over batches and processes are exact.

    Attributes:
        left_test: random, (out, size).
        left: `sum(G_i G_i^T) @ left_test`, (out, size).
        right_test: random, (in, size).
        right: `sum(G_i^T G_i) @ right_test`, (in, size).
    """

    left_test: Float[Tensor, "out size"]
    left: Float[Tensor, "out size"]
    right_test: Float[Tensor, "in size"]
    right: Float[Tensor, "in size"]

    @classmethod
    def empty(
        cls, out_features: int, in_features: int, size: int, like: Shaped[Tensor, "..."]
    ) -> MomentSketch:
        """A sketch of no sample, on the device of `like`; `size` should exceed the directions wanted by a few."""
        size = min(size, out_features, in_features)
        # The sums are of squares: in float32 they would lose what is a thousandth of the largest gradient.
        dtype = torch.float32 if like.device.type == "mps" else torch.float64
        # Drawn on the CPU in float64 so that every device and dtype gets the same.
        generator = torch.Generator().manual_seed(DRAWN)
        tests = (
            torch.randn(rows, size, generator=generator, dtype=torch.float64).to(like.device, dtype)
            for rows in (out_features, in_features)
        )
        left_test, right_test = tests
        return cls(left_test, torch.zeros_like(left_test), right_test, torch.zeros_like(right_test))

    def add(
        self, output_grad: Shaped[Tensor, "*rows out"], inputs: Shaped[Tensor, "*rows in"]
    ) -> MomentSketch:
        """With more samples: along the first axis; of two axes, each row is a sample. Inputs of two may be sparse.

        The loss is taken for a mean over them, so that it does not matter how samples are cut into batches.
        """
        count, g, x = len(output_grad), output_grad, inputs
        if x.is_sparse or x.ndim == 2:
            g, x = count * g.to(self.left), x.to(self.left)
            weights = (x * x).sum(1)
            lengths = (weights.to_dense() if x.is_sparse else weights)[:, None]
            left = g.mT @ (lengths * (g @ self.left_test))
            right = x.mT @ (g.square().sum(1, keepdim=True) * (x @ self.right_test))
            return replace(self, left=self.left + left, right=self.right + right)
        left, right = self.left.clone(), self.right.clone()
        g, x = g.flatten(1, -2), x.flatten(1, -2)
        together = max(1, TOKENS // max(1, g.shape[1]))  # samples in float64 at a time
        for pair in zip(g.split(together), x.split(together), strict=True):
            g, x = (each.to(self.left) for each in pair)
            left += count**2 * _gathered(g, x, self.left_test)
            right += count**2 * _gathered(x, g, self.right_test)
        return replace(self, left=left, right=right)

    def directions(self, width: int) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in l"]]:
        """Leading eigenvectors of both sums, largest first: at most `width`, and none that rounding made."""
        return _leading(self.left, self.left_test, width), _leading(self.right, self.right_test, width)


def _gathered(
    g: Float[Tensor, "samples tokens out"], x: Float[Tensor, "samples tokens in"], test: Tensor
) -> Tensor:
    """`sum(g_i^T x_i x_i^T g_i) @ test`, from the right; of few tokens, `x_i x_i^T` is made first."""
    y = g @ test
    short = x.shape[1] < 2 * test.shape[1]
    y = (x @ x.mT) @ y if short else x @ (x.mT @ y)
    return g.flatten(0, 1).mT @ y.flatten(0, 1)


def _leading(image: Tensor, test: Tensor, width: int) -> Tensor:
    """Eigenvectors of a positive semidefinite C from `image = C @ test`, by a Nystroem approximation."""
    dtype, device, floor = image.dtype, image.device, len(image) * torch.finfo(image.dtype).eps
    image, test = image.cpu().double(), test.cpu().double()
    gram = test.mT @ image
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    sound = values > floor * values[-1]
    u, s, _ = torch.linalg.svd(image @ (vectors[:, sound] / values[sound].sqrt()), full_matrices=False)
    carried = s.square() > floor * s[:1].square()
    return u[:, carried][:, :width].to(device, dtype)
