"""Linear layers whose gradients the test chooses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import corefold
from cases import matrix_with_spectrum
from models import layers, wrap

PREFIX = "base_model.model."


class ChosenGradients(nn.Module):
    """Linear layers with chosen gradients: the loss is the inner product of these with the weights."""

    def __init__(self, spectra: dict[str, list[float]], sides: tuple[int, int] = (15, 12)) -> None:
        super().__init__()
        self.gradients = {
            name: matrix_with_spectrum(*sides, values, seed)
            for seed, (name, values) in enumerate(spectra.items())
        }
        for name in spectra:
            setattr(self, name, nn.Linear(sides[1], sides[0], bias=False))

    def forward(self, eye: Tensor) -> Tensor:
        # A layer's output for the identity is its weight, transposed.
        return sum((getattr(self, name)(eye) * g.mT).sum() for name, g in self.gradients.items())


def with_gradients(spectra: dict[str, list[float]], sides: tuple[int, int] = (15, 12), **options: Any) -> Any:
    return wrap(ChosenGradients(spectra, sides).double(), **{"target_modules": [*spectra], "r": 4, **options})


def spread(model: Any, budget: int | None, **options: Any) -> corefold.BasesReport:
    side = next(iter(layers(model).values())).in_features
    eye = torch.eye(side, dtype=torch.float64)
    return corefold.initialize_bases(
        model, [eye], loss_fn=lambda model, x: model(x), rank_budget=budget, progress=False, **options
    )


def widths(report: corefold.BasesReport) -> dict[str, int]:
    return {name.removeprefix(PREFIX): width for name, width in report.ranks.items()}


SPECTRA = {"a": [9, 8, 7, 1], "b": [2, 1.5, 1], "c": [0.5, 0.1]}
