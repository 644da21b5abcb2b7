"""A method whose layers share parameters: pairs of their own around one diagonal that lies on the tuner."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corefold.adapters import host
from corefold.adapters.host.config import SavedUpdate
from corefold.core import Update

DIAGONAL = "sharedtoy_diagonal"
PAIR = ("sharedtoy_b", "sharedtoy_a")


@dataclass(frozen=True)
class SharedDiagonal(Update):
    b: Tensor
    diagonal: Tensor
    a: Tensor

    def dense(self):
        return self.b * self.diagonal @ self.a.mT

    def thin(self, dtype=None):
        dtype = dtype or self.b.dtype
        return self.b.to(dtype) * self.diagonal.to(dtype), self.a.to(dtype)


@dataclass
class SharedConfig(host.AdapterConfig):
    method: ClassVar[str] = "sharedtoy"
    title: ClassVar[str] = "Shared"

    def saved_updates(self, state):
        names = [name.removesuffix(".sharedtoy_b") for name in state if name.endswith(".sharedtoy_b")]
        diagonal = state[f"base_model.{DIAGONAL}"]
        return {name: self._saved(diagonal, *(state[f"{name}.{part}"] for part in PAIR)) for name in names}

    def _saved(self, diagonal, b, a):
        kernel = tuple(a.shape[1:-1])
        return SavedUpdate(SharedDiagonal(b, diagonal, a.flatten(0, -2)), kernel, embedding=len(a) == 11)


class SharedLayer(host.AdapterLayer):
    adapter_layer_names = PAIR

    def build(self, adapter_name, r, config, diagonal, **options):
        self.shared = [diagonal]
        self.r[adapter_name] = r
        self.set_parameter(PAIR[0], adapter_name, (self.left_rows, r))
        self.set_parameter(PAIR[1], adapter_name, (*self.right_shape, r))

    @torch.no_grad()
    def start(self, adapter_name):
        b, a = self.tensors(adapter_name)
        b.fill_(0.0 if self.configs[adapter_name].init_weights else 0.1)
        a.copy_(self.admissible(torch.linspace(-1, 1, a.numel()).view(-1, a.shape[-1])).view_as(a))

    def update(self, adapter_name):
        b, a = self.tensors(adapter_name)
        return SharedDiagonal(b, self.shared[0][adapter_name], a.flatten(0, -2))


class SharedLinear(host.LinearKind, SharedLayer):
    pass


class SharedEmbedding(host.EmbeddingKind, SharedLayer):
    pass


class SharedConv(host.ConvolutionKind, SharedLayer):
    pass


class SharedModel(host.AdapterTuner):
    prefix, tuner_layer_cls, uses_shared_state, shared_names = "sharedtoy_", SharedLayer, True, (DIAGONAL,)
    layer_classes = (SharedLinear, SharedEmbedding, SharedConv)

    def share(self, adapter_name, config, model):
        self.share_parameter(DIAGONAL, adapter_name, torch.linspace(1, 2, config.r))

    def layer_options(self, adapter_name, config, key):
        return {"diagonal": getattr(self, DIAGONAL)}


host.register("sharedtoy", SharedConfig, SharedModel)
