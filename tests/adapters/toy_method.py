"""A method in sixty lines, a trained diagonal, with nothing but the parts that `adapters/host` asks for."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corefold.adapters import host
from corefold.core import Update


@dataclass(frozen=True)
class Diagonal(Update):
    entries: Tensor
    shape: tuple[int, int]

    def dense(self):
        return self.entries.new_zeros(self.shape).diagonal_scatter(self.entries)


@dataclass
class DiagonalConfig(host.AdapterConfig):
    method: ClassVar[str] = "diagonal"
    title: ClassVar[str] = "Diagonal"


class DiagonalLayer(host.AdapterLayer):
    adapter_layer_names = ("diagonal_entries",)

    def build(self, adapter_name, r, config, **options):
        self.r[adapter_name] = min(self.left_rows, self.right_rows)
        self.set_parameter("diagonal_entries", adapter_name, (self.r[adapter_name],))

    @torch.no_grad()
    def start(self, adapter_name):
        self.tensors(adapter_name)[0].fill_(0.0 if self.configs[adapter_name].init_weights else 0.1)

    def update(self, adapter_name):
        return Diagonal(*self.tensors(adapter_name), (self.left_rows, self.right_rows))


class DiagonalLinear(host.LinearKind, DiagonalLayer):
    pass


class DiagonalEmbedding(host.EmbeddingKind, DiagonalLayer):
    pass


class DiagonalConv(host.ConvolutionKind, DiagonalLayer):
    pass


class DiagonalModel(host.AdapterTuner):
    prefix, tuner_layer_cls = "diagonal_", DiagonalLayer
    layer_classes = (DiagonalLinear, DiagonalEmbedding, DiagonalConv)


host.register("diagonal", DiagonalConfig, DiagonalModel)
