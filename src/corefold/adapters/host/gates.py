"""Scales and active states of a layer's adapters, as numbers and as tensors for compiled graphs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from corefold.adapters.host.internals import PeftLayer


class Gates(PeftLayer):
    """Which adapters of a layer run, and each one's scale.

    A compiled graph reads both from one tensor for each adapter, its gate: the scale, or 0 if the adapter is inactive.
    So one graph holds for all scales and all choices of adapters.
    """

    scaling: dict[str, float]
    gates: dict[str, Tensor]

    def scales(self) -> Mapping[str, float | Tensor]:
        """The adapters that run, and the scale of each; in a compiled graph all adapters, with their gates."""
        if torch.compiler.is_compiling():
            return self.gates
        return {} if self.disable_adapters else {name: self.scaling[name] for name in self.running()}

    def running(self) -> list[str]:
        """The active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.r]

    def set_scale(self, adapter: str, scale: float) -> None:
        """Multiply the adapter's update by `scale`, 1 by default; not saved with it, as in PEFT's LoRA."""
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)
            self.set_gates()

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of the active adapters."""
        for name in self.running():
            self.set_scale(name, self.scaling[name] * scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of the active adapters, or put it back to 1."""
        for name in self.running():
            self.set_scale(name, 1.0 if scale is None else self.scaling[name] / scale)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        self.set_gates()

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off; unlike PEFT's own, with no change to what requires a gradient."""
        self.switch(enabled)
        self.set_gates()

    def set_gates(self) -> None:
        """Write scales and active states into the gates."""
        active = () if self.disable_adapters else self.active_adapters
        for name, scale in self.scaling.items():
            gate = scale if name in active else 0.0
            # The gate stays on the CPU: one number costs less to read there than to move along with the model.
            with torch.inference_mode(False):  # A compiled model could not train with an inference tensor.
                self.gates[name] = torch.tensor(gate, dtype=torch.float64, device="cpu")
