"""The kind of layer that convolves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corefold.adapters.host.internals import convolved
from corefold.adapters.host.layer import AdapterLayer, one_sample


class ConvolutionKind(AdapterLayer):
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`: an update's right side is k kernels, its left side a convolution by 1.

    All groups share the kernels, and each has its own rows of the left side: the update is one of the weight
    (out, in / groups, *kernel), as for any other layer.
    """

    base_classes = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.weight.shape[0], tuple(base.weight.shape[1:])

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return self.get_base_layer().groups  # type: ignore[return-value]

    @property
    def lora_obstacle(self) -> str | None:
        conv: Any = self.get_base_layer()
        if conv.groups == 1 and {*conv.dilation} == {1} and conv.padding_mode == "zeros":
            return None
        return "has groups, dilation or a padding mode, which PEFT's LoRA does not take up"

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        kernels = right.mT.reshape(-1, *self.right_shape).repeat(self.groups, *[1] * len(self.right_shape))
        return self.mapped(x, kernels)

    def expand(self, coordinates: Tensor, tall: Tensor) -> Tensor:
        space = len(self.right_shape) - 1
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[space - 1]
        return convolve(coordinates, tall.reshape(*tall.shape, *[1] * space), groups=self.groups)

    def mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        return convolved(self.get_base_layer(), self.cast_input(x, weight.dtype), weight)

    def orient(self, dense: Tensor) -> Tensor:
        return dense.reshape(-1, *self.right_shape)

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # A kernel's gradient is no product of two small factors, so the dense one is computed, for this batch.
        conv: Any = self.get_base_layer()
        with torch.enable_grad():
            weight = conv.weight.detach().requires_grad_()
            (dense,) = torch.autograd.grad(convolved(conv, x, weight), weight, grad)
        return one_sample(dense.flatten(1))
