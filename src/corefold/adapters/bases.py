"""Bases from data: one pass over a few batches sets the bases of every Deep LoRA layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from corefold.adapters.layer import DeepLoraLayer
from corefold.core import GradientSketch, bases_from_singular_vectors

OVERSAMPLE = 8

Loss = Callable[[nn.Module, Any], Tensor]


def initialize_bases(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_batches: int = 4,
    *,
    adapter_name: str | None = None,
    loss_fn: Loss | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Point an adapter's bases along the gradient of the loss, and put its factors at their start.

    Runs forward and backward on `num_batches` batches without this adapter, in evaluation mode and with nothing
    trainable, and keeps of each layer's weight gradient only a sketch of O((out + in) r) numbers
    (`corefold.core.GradientSketch`). No weight, no `.grad`, no training flag and no random state of the model is
    changed; transformers models recompute activations on the way, so the memory stays below a training step's. In a
    distributed run all processes take the first one's bases.

    Args:
        model: a model with a Deep LoRA adapter, wrapped by PEFT or with the adapter injected.
        dataloader: batches, as for training: mappings with labels, unless `loss_fn` says otherwise.
        num_batches: batches used; fewer if the dataloader ends before.
        adapter_name: which adapter; default the active one.
        loss_fn: `loss_fn(model, batch)`, a scalar; default `model(**batch).loss`.
        generator: source of the random halves of the bases, on the CPU; default seed 0, so that equal data means
            equal bases.
        progress: show a progress bar.

    Returns:
        For each layer, by module name, the largest singular values of the gradient.

    Raises:
        ValueError: no such adapter, no batch, no or non-finite loss, or a layer that the loss does not reach (the
            adapter is unchanged then).
    """
    layers = layers_of(model, adapter_name)
    generator = generator or torch.Generator().manual_seed(0)
    sketches = {
        name: GradientSketch.empty(
            layer.out_features,
            layer.in_features,
            2 * layer.r[adapter] + OVERSAMPLE,
            layer.deeplora_left[adapter],
        )
        for name, (layer, adapter) in layers.items()
    }

    def add(name: str, output_grad: Tensor, inputs: Tensor) -> None:
        sketches[name] = sketches[name].add(output_grad, inputs, generator)

    device = next(iter(layers.values()))[0].get_base_layer().weight.device
    seen = 0
    with _capturing(model, layers, add), torch.random.fork_rng(devices=[]):
        total = num_batches if not hasattr(dataloader, "__len__") else min(num_batches, len(dataloader))  # type: ignore[arg-type]
        bar = tqdm(islice(dataloader, num_batches), total=total, desc="bases", disable=not progress)
        for seen, batch in enumerate(bar, 1):
            loss = (loss_fn or _loss_of_output)(model, send_to_device(batch, device))
            _check_loss(loss, seen)
            if loss.requires_grad:  # else it reaches no layer, and all are named below
                loss.backward()
    if seen == 0:
        raise ValueError("the dataloader gave no batch; initialize_bases needs at least one")
    _check_reached(sketches)
    for name, (layer, adapter) in layers.items():
        _set_bases(layer, adapter, sketches[name], generator)
        _share(layer, adapter)
    return {name: sketch.values.cpu() for name, sketch in sketches.items()}


def layers_of(model: nn.Module, adapter_name: str | None = None) -> dict[str, tuple[DeepLoraLayer, str]]:
    """The layers that carry an adapter (default: the active one), by module name, and the adapter's name."""
    found: dict[str, tuple[DeepLoraLayer, str]] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, DeepLoraLayer):
            continue
        active = [name for name in layer.active_adapters if name in layer.deeplora_factors]
        if adapter_name is None and len(active) > 1:
            raise ValueError(
                f"several adapters are active ({', '.join(active)}); say which with adapter_name="
            )
        name = adapter_name if adapter_name is not None else next(iter(active), None)
        if name is not None and name in layer.deeplora_factors:
            if layer.merged:
                raise ValueError("an adapter is merged into the weights; call unmerge_adapter() first")
            found[path] = (layer, name)
    if not found:
        wanted = (
            "an active Deep LoRA adapter" if adapter_name is None else f"a Deep LoRA adapter {adapter_name!r}"
        )
        raise ValueError(f"no layer of the model has {wanted}; wrap the model with a DeepLoraConfig first")
    return found


def _loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    output = model(**batch) if hasattr(batch, "keys") else model(batch)
    loss = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
    if loss is None:
        raise ValueError(
            "the model returned no loss; put labels into the batches or pass loss_fn(model, batch)"
        )
    return loss


def _check_loss(loss: object, batch: int) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss_fn must return one number as a tensor; batch {batch} gave {loss!r}")
    if not torch.isfinite(loss):
        raise ValueError(f"the loss of batch {batch} is {loss.item()}; check its inputs and labels")


def _check_reached(sketches: dict[str, GradientSketch]) -> None:
    unreached = [name for name, sketch in sketches.items() if sketch.tokens == 0]
    if unreached:
        shown = ", ".join(unreached[:3]) + (f" and {len(unreached) - 3} more" if len(unreached) > 3 else "")
        raise ValueError(
            f"the loss does not depend on {len(unreached)} adapted layer(s): {shown}; leave them out with "
            "exclude_modules, or pass a loss_fn that reaches them"
        )
    zero = [name for name, sketch in sketches.items() if sketch.carried() == 0]
    if zero:
        warnings.warn(
            f"the gradient of {len(zero)} layer(s) is zero, their bases are random: {', '.join(zero[:3])}",
            stacklevel=3,
        )


def _set_bases(
    layer: DeepLoraLayer, adapter: str, sketch: GradientSketch, generator: torch.Generator
) -> None:
    config, k = layer.deeplora_config[adapter], sketch.carried()
    left, right = bases_from_singular_vectors(
        sketch.left[:, :k], sketch.right[:, :k], layer.r[adapter], config.bases, generator
    )
    layer.reset_adapter(adapter, left, right)
    config.initialized = True


def _share(layer: DeepLoraLayer, adapter: str) -> None:
    """Take the first process's bases: each has seen its own batches, and all must train the same chain."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for name in layer.adapter_layer_names:
            torch.distributed.broadcast(getattr(layer, name)[adapter].data, src=0)


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
        ctx.mark_dirty(output)  # a view would forbid in-place operations that may follow
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inputs,) = ctx.saved_tensors
        ctx.sink(grads[0], inputs)
        return grads[0], None, None, None


@contextmanager
def _capturing(
    model: nn.Module,
    layers: dict[str, tuple[DeepLoraLayer, str]],
    sink: Callable[[str, Tensor, Tensor], None],
) -> Iterator[None]:
    anchor = torch.zeros((), requires_grad=True)  # gives every layer's output a gradient, whatever is frozen

    def hook_of(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _Capture.apply(output, args[0].detach(), anchor, lambda g, x: sink(name, g, x))  # type: ignore[return-value]

        return hook

    with ExitStack() as stack:
        stack.enter_context(_evaluating_frozen(model))
        for name, (layer, adapter) in layers.items():
            stack.callback(setattr, layer, "_active_adapter", layer._active_adapter)
            layer._active_adapter = [other for other in layer.active_adapters if other != adapter]
            stack.callback(layer.register_forward_hook(hook_of(name)).remove)  # type: ignore[attr-defined]
        stack.enter_context(_checkpointing(model))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _evaluating_frozen(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, was_training in training:
            module.training = was_training


@contextmanager
def _checkpointing(model: nn.Module) -> Iterator[None]:
    """Recompute activations block by block in the models of transformers that can, dropout staying off."""
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    caching = [config for config in configs if getattr(config, "use_cache", False)] if blocks else []
    with ExitStack() as stack:
        for block in blocks:
            for name, value in {
                "gradient_checkpointing": True,
                "training": True,  # blocks checkpoint in training mode only
                "_gradient_checkpointing_func": partial(_checkpoint_in_evaluation, block),
            }.items():
                if name in vars(block):
                    stack.callback(setattr, block, name, vars(block)[name])
                else:
                    stack.callback(delattr, block, name)
                setattr(block, name, value)
        for config in caching:
            stack.callback(setattr, config, "use_cache", True)
            config.use_cache = False
        yield


def _checkpoint_in_evaluation(block: nn.Module, run: Callable[..., Any], *args: Any) -> Any:
    def evaluate(*args: Any) -> Any:
        block.training = False
        try:
            return run(*args)
        finally:
            block.training = True

    return checkpoint(evaluate, *args, use_reentrant=False)
