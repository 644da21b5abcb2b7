"""Bases from data: one pass over a few batches sets the bases of every Deep LoRA layer."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from corefold.adapters.capture import capturing
from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.precision import unrounded
from corefold.adapters.processes import (
    averaged,
    failing_together,
    gathered,
    is_first,
    refuse_partitioned,
    share,
    show_own_parts,
    summed,
)
from corefold.core import (
    GradientBases,
    GradientSketch,
    MomentSketch,
    bases_from_singular_vectors,
    complete,
    paired_bases,
    widths_by_energy,
)

OVERSAMPLE = 8
REPORTED = 24  # singular values of a layer's gradient, where the bases need none
WIDEST = 2  # with a budget no layer gets more than this many times the average

Loss = Callable[[nn.Module, Any], Tensor]


class BasesReport(dict[str, Tensor]):
    """What `initialize_bases` saw and chose: the gradient's largest singular values of each layer, by module name.

    Attributes:
        ranks: each layer's `r`.
        energies: each layer's share of the squared singular values of all layers.
    """

    def __init__(self, values: dict[str, Tensor], ranks: dict[str, int]) -> None:
        super().__init__(values)
        self.ranks = ranks
        squares = {name: float(value.square().sum()) for name, value in values.items()}
        total = sum(squares.values()) or 1.0
        self.energies = {name: square / total for name, square in squares.items()}

    def __str__(self) -> str:
        rows = sorted(self.ranks, key=lambda name: -self.energies[name])
        lines = [f"{self.ranks[name]:>4}  {self.energies[name]:>6.1%}  {name}" for name in rows]
        return "\n".join(["rank  energy  layer", *lines])


def initialize_bases(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_batches: int = 4,
    *,
    adapter_name: str | None = None,
    loss_fn: Loss | None = None,
    rank_budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> BasesReport:
    """Point an adapter's bases along the gradient of the loss, and put its factors at their start.

    Runs forward and backward on `num_batches` batches without this adapter and in evaluation mode, and keeps of each
    layer's weight gradient only sketches of O((out + in) width) numbers (`GradientSketch` and `MomentSketch` of
    `corefold.core`). No weight, no `.grad`, no training flag and no random state of the model is changed; transformers
    models recompute activations on the way, so the memory stays below a training step's.

    In a distributed run every process calls it, before or after DDP or FSDP2 wraps the model, with its own share of
    the batches. The bases then follow the gradient averaged over all processes and are the same in each, bit for bit;
    the pass ends when the first process runs out of batches, and an error in one process is raised in all.

    Args:
        model: a model with a Deep LoRA adapter, wrapped by PEFT or with the adapter injected.
        dataloader: batches, as for training: mappings with labels, unless `loss_fn` says otherwise.
        num_batches: batches used; fewer if the dataloader ends before.
        adapter_name: which adapter; default the active one.
        loss_fn: `loss_fn(model, batch)`, a scalar; default `model(**batch).loss`.
        rank_budget: spread this sum of ranks over the layers, instead of `r` for each: one direction for each layer,
            the others to those in which the gradient has most energy, up to twice the average. The layers' parameters
            are made anew, so call it before an optimizer or a distributed wrapper takes them; the ranks are written
            into the configuration's `rank_pattern`.
        generator: source of the random halves of the bases, on the CPU, and of nothing else; default seed 0, so that
            equal data means equal bases, in however many batches and processes it comes.
        progress: show a progress bar.

    Returns:
        For each layer, by module name, the largest singular values of the gradient; with them the ranks and each
        layer's share of the energy, which `print` shows as a table.

    Raises:
        ValueError: no such adapter, no batch, no or non-finite loss, a layer that the loss does not reach, an
            adapter partitioned by DeepSpeed ZeRO-3 or FSDP1, or a budget too small or too late (the adapter is
            unchanged then).
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one, whose names would be others
    if isinstance(model, DistributedDataParallel):
        if rank_budget is not None:
            raise ValueError(
                "rank_budget makes new parameters; call initialize_bases before wrapping with DDP"
            )
        model = model.module  # its forward would wait for gradients
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1; got {num_batches}")
    layers = layers_of(model, adapter_name)
    refuse_partitioned(layers)
    widest = _widest(layers, rank_budget)
    generator = generator or torch.Generator().manual_seed(0)
    sketching = torch.Generator().manual_seed(0)  # its own: `generator` must not feel how many batches came
    sizes = {
        name: (
            layer.left_rows,
            math.prod(layer.right_shape),
            2 * max(widest[name], layer.width[adapter]) + OVERSAMPLE,
            layer.deeplora_left[adapter],
        )
        for name, (layer, adapter) in layers.items()
    }
    fisher = {
        name for name, (layer, adapter) in layers.items() if layer.deeplora_config[adapter].bases == "fisher"
    }
    # Of the mean gradient the bases of narrow cores need no more than a report shows, unless it is to spread ranks.
    narrow = {name for name in fisher if rank_budget is None and _is_narrow(*layers[name])}
    sketches = {
        name: GradientSketch.empty(out, in_, min(size, REPORTED) if name in narrow else size, like)
        for name, (out, in_, size, like) in sizes.items()
    }
    blanks = {_alike(sizes[name]): MomentSketch.empty(*sizes[name]) for name in fisher}
    moments = {name: blanks[_alike(size)] for name, size in sizes.items() if name in fisher}

    def add(name: str, output_grad: Tensor, inputs: Tensor) -> None:
        with exact:
            sketches[name] = sketches[name].add(output_grad, inputs, sketching)
            if name in moments:
                moments[name] = moments[name].add(output_grad, inputs)

    first, adapter = next(iter(layers.values()))
    device = first.deeplora_left[adapter].device
    exact = unrounded(device.type)
    total = num_batches if not hasattr(dataloader, "__len__") else min(num_batches, len(dataloader))  # type: ignore[arg-type]
    with (
        capturing(model, layers, add) as run_backward,
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
    sketches, moments = averaged(sketches), summed(moments)
    _check_reached(sketches)
    show_own_parts(model)
    if rank_budget is not None:
        _spread(layers, sketches, rank_budget, widest)
    with exact:
        for name, (layer, adapter) in layers.items():
            _set_bases(layer, adapter, sketches[name], moments.get(name), generator)
    return BasesReport(
        {name: sketch.values.cpu() for name, sketch in sketches.items()},
        {name: layer.r[adapter] for name, (layer, adapter) in layers.items()},
    )


def _is_narrow(layer: DeepLoraLayer, adapter: str) -> bool:
    return layer.r[adapter] < layer.width[adapter]


def _alike(size: tuple[int, int, int, Tensor]) -> tuple[int, int, int, torch.device]:
    """What the layers that draw the same test matrices, and so can share them, have in common."""
    out, in_, width, like = size
    return out, in_, width, like.device


def _widest(layers: dict[str, tuple[DeepLoraLayer, str]], budget: int | None) -> dict[str, int]:
    """How wide the bases of each layer may become."""
    if budget is None:
        return {name: layer.width[adapter] for name, (layer, adapter) in layers.items()}
    for layer, adapter in layers.values():
        if hasattr(layer.deeplora_left[adapter], "device_mesh"):
            raise ValueError("rank_budget makes new parameters; call initialize_bases before fully_shard")
    sides = {name: min(layer.left_rows, math.prod(layer.right_shape)) for name, (layer, _) in layers.items()}
    least = sum(min(2, side) for side in sides.values())
    if not isinstance(budget, int) or budget < least:
        raise ValueError(
            f"rank_budget for {len(layers)} layers must be a whole number from {least} up; got {budget}"
        )
    return {name: min(side, WIDEST * -(-budget // len(layers))) for name, side in sides.items()}


def _spread(
    layers: dict[str, tuple[DeepLoraLayer, str]],
    sketches: dict[str, GradientSketch],
    budget: int,
    widest: dict[str, int],
) -> None:
    spectra = [sketch.values for sketch in sketches.values()]
    # One process decides: the others' rounding might differ.
    chosen = gathered(widths_by_energy(spectra, budget, [widest[name] for name in sketches]))[0]
    widths = dict(zip(layers, chosen, strict=True))
    for name in layers:  # an attention and its output projection have one width in the configuration
        if (inner := f"{name}.base_layer.out_proj") in widths:
            widths[name] = widths[inner] = (widths[name] + widths[inner]) // 2
    config = next(layer.deeplora_config[adapter] for layer, adapter in layers.values())
    for name, (layer, adapter) in layers.items():
        if widths[name] != layer.r[adapter]:
            layer.resize(adapter, widths[name])
    pattern = {
        f"^{re.escape(layers[name][0].key)}": width
        for name, width in widths.items()
        if width != config.r and ".base_layer." not in name
    }
    config.decide(rank_pattern=pattern)


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
            "the model returned no loss; put labels into the batches or pass loss_fn(model, batch); a trainer lends "
            "its own to the callback it was made with: callback.loss_fn = trainer.compute_loss"
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
    layer: DeepLoraLayer,
    adapter: str,
    sketch: GradientSketch,
    moments: MomentSketch | None,
    generator: torch.Generator,
) -> None:
    config, k, width = layer.deeplora_config[adapter], sketch.carried(), layer.width[adapter]
    if moments is not None:
        rows, columns = (each.to(sketch.left) for each in moments.directions(width))
        if _is_narrow(layer, adapter):  # its factors start at random, so that pairs of columns mean nothing
            left, right = complete(rows, width, generator), complete(columns, width, generator)
        else:
            gradient = (sketch.left, sketch.values, sketch.right)
            left, right = paired_bases(rows, columns, gradient, width, generator)
    else:
        kind = cast(GradientBases, config.bases)
        left, right = bases_from_singular_vectors(
            sketch.left[:, :k], sketch.right[:, :k], width, kind, generator
        )
    layer.reset_adapter(adapter, left, right, generator)
    for name in layer.adapter_layer_names:
        share(getattr(layer, name)[adapter])
    config.decide(initialized=True)
