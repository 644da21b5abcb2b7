"""Capturing every adapted layer's gradient in one backward pass, with nothing of the model changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from corefold.adapters.host.layer import AdapterLayer, one_sample

Sink = Callable[[str, Tensor, Tensor], None]


@contextmanager
def capturing(
    model: nn.Module, layers: Mapping[str, tuple[AdapterLayer, str]], sink: Sink
) -> Iterator[Callable[[Tensor], None]]:
    """Yields the function that runs the backward pass of a loss computed inside.

    The model runs in evaluation mode and without the given adapters, blocks of transformers' models with activation
    checkpointing. For each layer the loss reaches, `sink(name, g, x)` is called with the two factors of its weight's
    gradient `g^T x`, (rows, out) and (rows, in).
    """
    # It gives every layer's output a gradient, whatever is frozen.
    anchor = torch.zeros((), requires_grad=True)

    def run_backward(loss: Tensor) -> None:
        if loss.requires_grad:  # Otherwise it reaches no layer.
            # Which parameters train must not change: FSDP2 looks at that only once.
            loss.backward(inputs=[anchor])

    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, (layer, adapter) in layers.items():
            stack.callback(layer.activate, layer.active_adapter)
            stack.callback(layer.register_forward_pre_hook(partial(_leave_out, adapter)).remove)
            if layer.called:
                watch = partial(_watch_output, anchor, partial(sink, name))
                stack.callback(layer.register_forward_hook(watch, with_kwargs=True).remove)
            else:
                stack.callback(setattr, layer, "watch_weight", None)
                layer.watch_weight = partial(_watch_weight, anchor, partial(sink, name))
        stack.enter_context(_checkpointing(model))
        stack.enter_context(torch.enable_grad())
        yield run_backward


def _leave_out(adapter: str, layer: AdapterLayer, args: Any) -> None:
    # At every call, because a loss may switch adapters on its way: TRL's do, to run their reference. Nobody calls an
    # attention's output projection, so that it is switched with the attention.
    for part in layer.modules():
        if isinstance(part, AdapterLayer):
            part.activate([name for name in part.active_adapters if name != adapter])


class _Capture(torch.autograd.Function):
    """Identity on a layer's output that hands (output gradient, layer input) to `sink` in the backward pass.

    The input is saved through autograd, not in a closure, so activation checkpointing drops and recomputes it.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, sink: Callable[..., None]
    ) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.sink = sink
        ctx.mark_dirty(output)  # Autograd would forbid in-place operations on a view.
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inputs,) = ctx.saved_tensors
        ctx.sink(grads[0], inputs)
        return grads[0], None, None, None


def _watch_output(
    anchor: Tensor,
    sink: Callable[[Tensor, Tensor], None],
    layer: AdapterLayer,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Any],
    output: Tensor,
) -> Tensor:
    inputs = args[0] if args else next(iter(kwargs.values()))
    if inputs.requires_grad and torch.is_grad_enabled() and not output.requires_grad:
        raise ValueError(
            f"{layer.get_base_layer()} passes no gradient on, so that the layers before it would not learn: its "
            "quantisation is for inference only"
        )
    if layer.quantization_backend is not None or (output.is_leaf and output.requires_grad):
        # Autograd lets nobody write to what bitsandbytes returns, a view, or to embeddings whose gradient transformers
        # asks for when it checkpoints activations.
        output = output.clone()
    return _Capture.apply(  # type: ignore[return-value]
        output, inputs.detach(), anchor, lambda g, x: sink(*layer.gradient_factors(g, x))
    )


def _watch_weight(anchor: Tensor, sink: Callable[[Tensor, Tensor], None], weight: Tensor) -> Tensor:
    # The weight belongs to a layer that PyTorch never calls.
    return _Capture.apply(  # type: ignore[return-value]
        weight.clone(),
        weight.new_empty(0),
        anchor,
        lambda g, _: sink(*one_sample(g)),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, was_training in training:
            module.training = was_training


@contextmanager
def _checkpointing(model: nn.Module) -> Iterator[None]:
    """Recompute activations block by block in the models of transformers, dropout staying off."""
    from transformers import PreTrainedModel

    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    blocks = _blocks(model) if configs else []
    caching = [config for config in configs if getattr(config, "use_cache", False)] if blocks else []
    with ExitStack() as stack:
        for (
            block
        ) in blocks:  # A loss may turn the model's own switch, as TRL's do, so that it does not serve here.
            if "forward" in vars(block):
                stack.callback(setattr, block, "forward", block.forward)
            else:
                stack.callback(delattr, block, "forward")
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        for config in caching:
            stack.callback(setattr, config, "use_cache", True)
            config.use_cache = False
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that transformers would recompute; in a model that it cannot (MPNet), the members of module lists."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    modules = list(model.modules())
    if blocks := [module for module in modules if isinstance(module, GradientCheckpointingLayer)]:
        return [*blocks]
    lists = [module for module in modules if isinstance(module, nn.ModuleList)]
    inner = {part for outer in lists for part in outer.modules() if part is not outer}
    return [block for outer in lists if outer not in inner for block in outer]
