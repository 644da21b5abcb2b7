"""Bases from data: one pass over a few batches sets the bases of every Deep LoRA layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.processes import (
    averaged,
    failing_together,
    gathered,
    is_first,
    refuse_partitioned,
    share,
    show_own_parts,
)
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

    Runs forward and backward on `num_batches` batches without this adapter and in evaluation mode, and keeps of each
    layer's weight gradient only a sketch of O((out + in) r) numbers (`corefold.core.GradientSketch`). No weight, no
    `.grad`, no training flag and no random state of the model is changed; transformers models recompute activations on
    the way, so the memory stays below a training step's.

    In a distributed run every process calls it, before or after DDP or FSDP2 wraps the model, with its own share of
    the batches. The bases then follow the gradient averaged over all processes and are the same in each, bit for bit;
    the pass ends when the first process runs out of batches, and an error in one process is raised in all.

    Args:
        model: a model with a Deep LoRA adapter, wrapped by PEFT or with the adapter injected.
        dataloader: batches, as for training: mappings with labels, unless `loss_fn` says otherwise.
        num_batches: batches used; fewer if the dataloader ends before.
        adapter_name: which adapter; default the active one.
        loss_fn: `loss_fn(model, batch)`, a scalar; default `model(**batch).loss`.
        generator: source of the random halves of the bases, on the CPU, and of nothing else; default seed 0, so that
            equal data means equal bases, in however many batches and processes it comes.
        progress: show a progress bar.

    Returns:
        For each layer, by module name, the largest singular values of the gradient.

    Raises:
        ValueError: no such adapter, no batch, no or non-finite loss, a layer that the loss does not reach, or an
            adapter partitioned by DeepSpeed ZeRO-3 or FSDP1 (the adapter is unchanged then).
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module  # its forward would wait for gradients
    layers = layers_of(model, adapter_name)
    refuse_partitioned(layers)
    generator = generator or torch.Generator().manual_seed(0)
    sketching = torch.Generator().manual_seed(0)  # its own: `generator` must not feel how many batches came
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
        sketches[name] = sketches[name].add(output_grad, inputs, sketching)

    device = next(iter(layers.values()))[0].get_base_layer().weight.device
    total = num_batches if not hasattr(dataloader, "__len__") else min(num_batches, len(dataloader))  # type: ignore[arg-type]
    with (
        _capturing(model, layers, add) as run_backward,
        torch.random.fork_rng(devices=[]),
        tqdm(total=total, desc="bases", disable=not (progress and is_first())) as bar,
    ):
        for seen, batch in enumerate(_in_step(dataloader, num_batches), 1):
            with failing_together():
                loss = (loss_fn or _loss_of_output)(model, send_to_device(batch, device))
                _check_loss(loss, seen)
            with failing_together():
                run_backward(loss)
            bar.update()
    sketches = averaged(sketches)
    _check_reached(sketches)
    show_own_parts(model)
    for name, (layer, adapter) in layers.items():
        _set_bases(layer, adapter, sketches[name], generator)
    return {name: sketch.values.cpu() for name, sketch in sketches.items()}


def _in_step(dataloader: Iterable[Any], num_batches: int) -> Iterator[Any]:
    """At most `num_batches` batches, until the first process has none left: a sharded model runs in all or none."""
    stream, end = iter(dataloader), object()
    for seen in range(num_batches):
        with failing_together():
            batch = next(stream, end)
        if any(gathered(batch is end)):
            if seen == 0:
                raise ValueError("the dataloader gave no batch; initialize_bases needs at least one")
            return
        yield batch


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
            "the model returned no loss; put labels into the batches or pass loss_fn(model, batch); a trainer lends its "
            "own to the callback it was made with: callback.loss_fn = trainer.compute_loss"
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
    for name in layer.adapter_layer_names:
        share(getattr(layer, name)[adapter])
    config.initialized = True


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
) -> Iterator[Callable[[Tensor], None]]:
    anchor = torch.zeros((), requires_grad=True)  # gives every layer's output a gradient, whatever is frozen

    def run_backward(loss: Tensor) -> None:
        if loss.requires_grad:  # else it reaches no layer, and all are named in the end
            loss.backward(
                inputs=[anchor]
            )  # parameters stay as they are: FSDP2 looks at what trains only once

    def hook_of(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _Capture.apply(output, args[0].detach(), anchor, lambda g, x: sink(name, g, x))  # type: ignore[return-value]

        return hook

    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        for name, (layer, adapter) in layers.items():
            stack.callback(setattr, layer, "_active_adapter", layer._active_adapter)
            stack.callback(layer.register_forward_pre_hook(partial(_leave_out, adapter)).remove)  # type: ignore[attr-defined]
            stack.callback(layer.register_forward_hook(hook_of(name)).remove)  # type: ignore[attr-defined]
        stack.enter_context(_checkpointing(model))
        stack.enter_context(torch.enable_grad())
        yield run_backward


def _leave_out(adapter: str, layer: DeepLoraLayer, args: Any) -> None:
    # At every call, for a loss may switch adapters on its way: TRL's do, to run their reference.
    layer._active_adapter = [name for name in layer.active_adapters if name != adapter]


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
    """Recompute activations block by block in the models of transformers that can, dropout staying off."""
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    caching = [config for config in configs if getattr(config, "use_cache", False)] if blocks else []
    with ExitStack() as stack:
        for block in blocks:  # not by the model's own switch, which a loss may turn: TRL's do
            if "forward" in vars(block):
                stack.callback(setattr, block, "forward", block.forward)
            else:
                stack.callback(delattr, block, "forward")
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        for config in caching:
            stack.callback(setattr, config, "use_cache", True)
            config.use_cache = False
        yield
