"""Bases that `initialize_bases` finds, against the gradients of full backpropagation."""

from __future__ import annotations

import copy

import torch

import corefold
from corefold.core import principal_angles
from models import layers, load
from models import wrap as wrap_by_default

R, HALF = 8, 4
"""The width of the bases, and how many of their columns follow the gradient."""
TARGETS = ["query", "value", "intermediate.dense", "output.dense"]


def wrap(base, *args, **options):
    return wrap_by_default(base, *args, **{"bases": "gradient", **options})


def adapted_minilm():
    return wrap(load("minilm"), r=R, target_modules=TARGETS)


def initialize(model, data, **options):
    return corefold.initialize_bases(model, data, **{"num_batches": 9, "progress": False, **options})


def dense_gradients(base, data, names, loss_fn=None):
    """The weight gradients of full backpropagation through a copy, summed over the batches, in float64."""
    model = copy.deepcopy(base).eval().requires_grad_(False)
    weights = {name: model.get_submodule(name).weight.requires_grad_() for name in names}
    for batch in data:
        (loss_fn(model, batch) if loss_fn else model(**batch).loss).backward()
    return {name: weight.grad.double() for name, weight in weights.items()}


def halves(layer, adapter="default"):
    """The columns of the two bases that follow the gradient: left's last ones, right's first."""
    return layer.deeplora_left[adapter].double()[:, -HALF:], layer.deeplora_right[adapter].double()[:, :HALF]


def off_by(columns, exact):
    """The largest angle between the spaces, in radians."""
    return principal_angles(columns, exact).max().item()


def assert_follow_gradient(model, gradients, adapter="default", lost=1e-5, angle=1e-3):
    """Compare the columns of the bases that follow the gradient with its dense SVD.

    They carry as much energy as any bases of their size could, but for a share `lost`. Where the spectrum has a gap
    after them, they span the top singular vectors to `angle` radians; without a gap these vectors are not defined.
    """
    assert layers(model)
    for path, layer in layers(model).items():
        gradient = gradients[path.removeprefix("base_model.model.")]
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        for basis in (layer.deeplora_left[adapter], layer.deeplora_right[adapter]):
            torch.testing.assert_close(basis.mT @ basis, torch.eye(R, dtype=basis.dtype), atol=1e-5, rtol=0)
        left, right = halves(layer, adapter)
        best = s[:HALF].norm()
        for carried in ((left.mT @ gradient).norm(), (gradient @ right).norm()):
            assert carried**2 >= (1 - lost) * best**2, f"{path} loses {1 - (carried / best) ** 2:.1e}"
        if s[HALF] < 0.95 * s[HALF - 1]:
            worst = max(off_by(left, u[:, :HALF]), off_by(right, vh[:HALF].mT))
            assert worst < angle, f"{path}: {worst:.1e} rad from the gradient"


def plain_names(model):
    return [name.removeprefix("base_model.model.") for name in layers(model)]
