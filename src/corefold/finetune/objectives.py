"""Losses of embeddings themselves, for a classifier whose head is fitted to them afterwards."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pair_loss(embeddings: Float[Tensor, "rows width"], labels: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Squared distance of the cosine of each two rows from 1, if they are of one class, or from 0.

    Pairs of one class count as much as the others together; a batch without any pair has the loss 0.

    Source: Reimers, Gurevych 2019 and Tunstall et al. 2022 (SetFit), who draw pairs in the place of taking all of a
    batch.
    """
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    row, other = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    alike = (labels[row] == labels[other]).to(unit)
    squares = (torch.linalg.vecdot(unit[row], unit[other]) - alike).square()
    parts = [(squares * kind).sum() / kind.sum().clamp(min=1) for kind in (alike, 1 - alike)]
    return (parts[0] + parts[1]) / 2
