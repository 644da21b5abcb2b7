"""The kind of layer that looks rows up in a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corefold.adapters.host.layer import AdapterLayer
from corefold.core import Update, switched


class EmbeddingKind(AdapterLayer):
    """`nn.Embedding`: a linear map of one-hot rows, so that an update's right side is looked up, not multiplied."""

    base_classes = (nn.Embedding,)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.embedding_dim, (base.num_embeddings,)

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        return self.mapped(x, right)

    def coordinates(self, x: Tensor, right: Tensor, scale: float | Tensor) -> Tensor:
        # The rows looked up are few, and ids have no gradient.
        return switched(self.project(x, right), scale)

    def mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        table: Any = self.get_base_layer()
        rows = functional.embedding(x, weight, table.padding_idx, scale_grad_by_freq=table.scale_grad_by_freq)
        scale = self.embedding_scale()
        return rows if scale is None else rows * scale.to(rows.dtype)

    def thin(self, update: Update) -> tuple[Tensor, Tensor] | None:
        # Few of many rows are looked up. The table's own treatment of gradients (`scale_grad_by_freq`) also stays away
        # from the core this way.
        return update.lookup_factors()

    def orient(self, dense: Tensor) -> Tensor:
        return self.admissible(dense.mT)

    def admissible(self, right: Tensor) -> Tensor:
        # The vector of padding gets no gradient, and so never changes.
        table: Any = self.get_base_layer()
        if table.padding_idx is None:
            return right
        padding = torch.tensor([table.padding_idx], device=right.device)
        return right.index_fill(0, padding, 0)

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        table: Any = self.get_base_layer()
        tokens, ids = x.numel(), x.reshape(1, -1)
        ones = torch.ones(tokens, dtype=grad.dtype, device=grad.device)
        if table.padding_idx is not None:
            ones *= ids[0] != table.padding_idx
        scale = self.embedding_scale()
        rows = torch.cat([torch.arange(tokens, device=ids.device)[None], ids])
        one_hot = torch.sparse_coo_tensor(
            rows,
            ones if scale is None else ones * scale,
            (tokens, table.num_embeddings),
            check_invariants=False,
        )
        return grad.reshape(tokens, -1), one_hot.coalesce()
