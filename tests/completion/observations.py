"""Matrices of low rank seen through holes, in general position, and their obvious dense answers."""

from __future__ import annotations

import numpy as np
import torch

from cases import gaussian, generator
from corefold.completion.observed import Observed


def sparse(height, width, share, dtype=torch.float64, seed=0):
    """Observed entries of a Gaussian matrix, an empty row and an empty column among them, and the dense form."""
    shown = torch.rand(height, width, generator=generator(seed)) < share
    shown[height // 2], shown[:, width // 3] = False, False
    dense = gaussian(height, width, seed=seed + 1, dtype=dtype)
    rows, columns = shown.nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=generator(seed + 2))
    rows, columns = rows[order], columns[order]
    return Observed.of(rows, columns, dense[rows, columns], (height, width)), shown, dense * shown


def low_rank(height, width, rank, seed=0, condition=1.0):
    """A matrix with entries of about unit size, and singular values that fall by `condition`."""
    stream = generator(seed)
    left, right = gaussian(height, rank, seed=stream), gaussian(width, rank, seed=stream)
    u, v = torch.linalg.qr(left).Q, torch.linalg.qr(right).Q
    s = torch.logspace(0, -np.log10(condition), rank, dtype=torch.float64)
    whole = u * s @ v.mT
    return (whole / whole.square().mean().sqrt()).numpy()


def with_holes(whole, share, seed=0):
    """NaN but for about this share of the entries; no row or column goes without."""
    shown = np.random.default_rng(seed).random(whole.shape) < share
    places = np.arange(max(whole.shape))
    shown[places % whole.shape[0], places % whole.shape[1]] = True
    return np.where(shown, whole, np.nan)


def relative(got, expected):
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def every(shape):
    """Rows and columns of all entries."""
    rows, columns = np.indices(shape)
    return rows.ravel(), columns.ravel()


def fitted(estimator, shape):
    """The fitted matrix."""
    return estimator.entries(*every(shape)).reshape(shape)
