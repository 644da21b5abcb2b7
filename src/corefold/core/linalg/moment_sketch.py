"""A streaming sketch of how a weight's gradient varies over samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from corefold.core.linalg.svd import significant

TOKENS_A_CHUNK = 512  # Larger products are faster, but their float64 copies take memory.
TEST_MATRIX_SEED = 0  # Every process draws the same test matrices, so that their sketches add up.


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
        # The sums are of squares: float32 would lose gradients of a thousandth of the largest.
        dtype = torch.float32 if like.device.type == "mps" else torch.float64
        # Drawn on the CPU in float64 so that every device and dtype gets the same.
        generator = torch.Generator().manual_seed(TEST_MATRIX_SEED)
        tests = (
            torch.randn(rows, size, generator=generator, dtype=torch.float64).to(like.device, dtype)
            for rows in (out_features, in_features)
        )
        left_test, right_test = tests
        return cls(left_test, torch.zeros_like(left_test), right_test, torch.zeros_like(right_test))

    def add(
        self, output_grad: Shaped[Tensor, "*rows out"], inputs: Shaped[Tensor, "*rows in"]
    ) -> MomentSketch:
        """The sketch with more samples, which lie along the first axis; inputs of two axes may be sparse.

        The loss counts as a mean over samples, so that it does not matter how they are cut into batches.
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
        together = max(1, TOKENS_A_CHUNK // max(1, g.shape[1]))  # samples in float64 at a time
        for pair in zip(g.split(together), x.split(together), strict=True):
            g, x = (each.to(self.left) for each in pair)
            left += count**2 * _second_moment_times(g, x, self.left_test)
            right += count**2 * _second_moment_times(x, g, self.right_test)
        return replace(self, left=left, right=right)

    def directions(self, width: int) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in l"]]:
        """Leading eigenvectors of both sums, largest first: at most `width`, and only those above rounding."""
        return _leading(self.left, self.left_test, width), _leading(self.right, self.right_test, width)


def _second_moment_times(
    g: Float[Tensor, "samples tokens out"], x: Float[Tensor, "samples tokens in"], test: Tensor
) -> Tensor:
    """`sum(g_i^T x_i x_i^T g_i) @ test`; for few tokens it is cheaper to form `x_i x_i^T` first."""
    y = g @ test
    few_tokens = x.shape[1] < 2 * test.shape[1]
    y = (x @ x.mT) @ y if few_tokens else x @ (x.mT @ y)
    return g.flatten(0, 1).mT @ y.flatten(0, 1)


def _leading(image: Tensor, test: Tensor, width: int) -> Tensor:
    """Eigenvectors of a positive semidefinite C from `image = C @ test`, by a Nystroem approximation."""
    dtype, device, size = image.dtype, image.device, len(image)
    image, test = image.cpu().double(), test.cpu().double()
    gram = test.mT @ image
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    kept = significant(values.to(dtype), size)  # `image` is only as exact as its own dtype.
    values, vectors = values[len(values) - kept :], vectors[:, len(values) - kept :]
    u, s, _ = torch.linalg.svd(image @ (vectors / values.sqrt()), full_matrices=False)
    kept = significant(s.square().to(dtype), size)
    return u[:, : min(kept, width)].to(device, dtype)
