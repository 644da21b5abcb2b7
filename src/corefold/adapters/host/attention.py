"""The kind of layer whose weights PyTorch uses without calling their modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from corefold.adapters.host.internals import has_one_size
from corefold.adapters.host.layer import AdapterLayer


class AttentionKind(AdapterLayer):
    """`nn.MultiheadAttention`: one update for `in_proj_weight`, and `out_proj` as a layer of its own.

    PyTorch calls neither projection as a module, so the attention runs with updated weights in their place.
    """

    base_classes = (nn.MultiheadAttention,)
    called = False
    lora_obstacle = "is an attention, whose output projection PEFT's LoRA (0.21) updates twice"
    linear_class: type[AdapterLayer]  # the method's class for the output projection

    def __init__(self, base_layer: Any, adapter_name: str, r: int, config: Any, **options: Any) -> None:
        if not has_one_size(base_layer):
            raise ValueError("nn.MultiheadAttention needs queries, keys and values of one size")
        base_layer.out_proj = self.linear_class(base_layer.out_proj, adapter_name, r, config, **options)
        base_layer.out_proj.called = False
        super().__init__(base_layer, adapter_name, r, config, **options)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.in_proj_weight.shape[0], (base.in_proj_weight.shape[1],)

    @property
    def weight(self) -> Tensor:
        """The projection of queries, keys and values, (3 dim, dim)."""
        return self.get_base_layer().in_proj_weight  # type: ignore[return-value]

    @property
    def out_proj(self) -> Any:
        """The output projection, a layer with adapters of its own."""
        return self.get_base_layer().out_proj

    def get_base_weight(self) -> Tensor:
        return self.weight.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        self.weight.data = weight_data

    def update_layer(self, adapter_name: str, r: int, config: Any, **options: Any) -> None:
        super().update_layer(adapter_name, r, config, **options)
        if adapter_name not in self.out_proj.r:
            self.out_proj.update_layer(adapter_name, r, config, **options)

    def forward(
        self, query: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Any:
        if adapter_names is not None:
            raise TypeError("nn.MultiheadAttention does not support mixed adapter batches")
        attention = self.get_base_layer()
        with ExitStack() as stack:
            for layer, owner, parameter in (
                (self, attention, "in_proj_weight"),
                (self.out_proj, self.out_proj.get_base_layer(), "weight"),
            ):
                if layer.merged and self.disable_adapters:
                    layer.unmerge()
                scales = {} if layer.merged else layer.scales()
                layer.check(scales)
                if layer.weight.is_meta and not query.is_meta:
                    raise ValueError(
                        f"accelerate has offloaded the weights of {self.key or 'an attention'}, which PyTorch uses "
                        f"without calling their module; offload with preload_module_classes=[{type(self).__name__!r}]"
                    )
                if scales or layer.watch_weight is not None:
                    weight = layer.weight + sum(layer.get_delta_weight(*named) for named in scales.items())  # type: ignore[arg-type]
                    weight = weight.to(layer.weight.dtype)
                    weight = weight if layer.watch_weight is None else layer.watch_weight(weight)
                    stack.enter_context(_shown_as(owner, parameter, weight))
            return self.base_layer(query, *args, **kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Called by PEFT, which does not look for adapted layers inside an adapted layer."""
        attention: Any = self.get_base_layer()
        if merge:
            for layer in (self, self.out_proj):
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        attention.out_proj = self.out_proj.get_base_layer()
        return attention

    def __getattr__(self, name: str) -> Any:
        # An enclosing nn.TransformerEncoderLayer asks for the attention's settings.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


@contextmanager
def _shown_as(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """Let a module find `tensor` under a parameter's name; the parameter itself stays where it is.

    `torch.func.functional_call` would do, but for FSDP, whose views of its shards lie in the way.
    """
    own = module.__dict__
    before = own.get(name)
    own[name] = tensor
    try:
        yield
    finally:
        del own[name]
        if before is not None:
            own[name] = before
