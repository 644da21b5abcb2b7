"""Bases from data: one pass over a few batches sets the bases of every Deep LoRA layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from corefold.adapters.deep_lora.adapted_layers import AdaptedLayers, adapted_layers
from corefold.adapters.deep_lora.bases_report import BasesReport
from corefold.adapters.deep_lora.layer import DeepLoraLayer
from corefold.adapters.deep_lora.rank_budget import largest_ranks, spread_ranks
from corefold.adapters.host.distributed import (
    averaged,
    failing_together,
    gathered,
    is_first,
    partitioned_by,
    share,
    show_own_parts,
    summed,
)
from corefold.adapters.host.gradient_capture import capturing
from corefold.adapters.host.internals import uncompiled
from corefold.adapters.host.precision import without_autocast
from corefold.core import (
    GradientBases,
    GradientSketch,
    MomentSketch,
    bases_from_singular_vectors,
    complete,
    paired_bases,
)

OVERSAMPLE = 8
REPORTED_VALUES = 24
"""Singular values of a layer's mean gradient that are computed where the bases need none of them."""

Loss = Callable[[nn.Module, Any], Tensor]


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

    Runs forward and backward on `num_batches` batches, without this adapter and in evaluation mode, and keeps of each
    layer's weight gradient only sketches of O((out + in) width) numbers (`GradientSketch` and `MomentSketch` of
    `corefold.core`). No weight, no `.grad`, no training flag and no random state of the model changes; transformers
    models recompute activations on the way, so the memory stays below a training step's.

    In a distributed run every process calls it, before or after DDP or FSDP2 wraps the model, with its own share of
    the batches. The bases then follow the gradient averaged over all processes and are the same in each, bit for bit.
    The pass ends when the first process runs out of batches, and an error in one process is raised in all.

    Args:
        model: a model with a Deep LoRA adapter, wrapped by PEFT or with the adapter injected.
        dataloader: batches, as for training: mappings with labels, unless `loss_fn` says otherwise.
        num_batches: batches used; fewer if the dataloader ends before.
        adapter_name: which adapter; default the active one.
        loss_fn: `loss_fn(model, batch)`, a scalar; default `model(**batch).loss`.
        rank_budget: spread this sum of ranks over the layers, instead of `r` for each: a rank of 2 for each layer, and
            more for those in which the gradient has most energy, up to twice the average. The layers' parameters
            are made anew, so call it before an optimizer or a distributed wrapper takes them. The ranks are written
            into the adapter's `rank_pattern`.
        generator: source of the random halves of the bases, on the CPU, and of nothing else; default seed 0, so that
            equal data means equal bases, in however many batches and processes it comes.
        progress: show a progress bar.

    Returns:
        For each layer, by module name, the largest singular values of the gradient; with them the ranks and each
        layer's share of the energy, which `print` shows as a table.

    Raises:
        ValueError: no such adapter, no batch, no or non-finite loss, a loss that reaches no layer, an
            adapter partitioned by DeepSpeed ZeRO-3 or FSDP1, or a budget too small or too late (the adapter is
            unchanged then).
    """
    model = uncompiled(model)
    if isinstance(model, DistributedDataParallel):
        if rank_budget is not None:
            raise ValueError(
                "rank_budget makes new parameters; call initialize_bases before wrapping with DDP"
            )
        model = model.module  # DDP's own forward would wait for gradients.
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1; got {num_batches}")
    layers = adapted_layers(model, adapter_name)
    _refuse_partitioned(layers)
    largest = None if rank_budget is None else largest_ranks(layers, rank_budget)
    gradients = _Gradients(layers, largest)
    _capture(model, layers, gradients, dataloader, num_batches, loss_fn or _loss_of_output, progress)
    gradients.combine()
    show_own_parts(model)
    if rank_budget is not None and largest is not None:
        spread_ranks(layers, gradients.means, rank_budget, largest)
    gradients.set_bases(generator or torch.Generator().manual_seed(0))
    return BasesReport(
        {name: sketch.values.cpu() for name, sketch in gradients.means.items()},
        {name: layer.r[adapter] for name, (layer, adapter) in layers.items()},
    )


class _Gradients:
    """Sketches of every layer's gradient, and the bases that follow from them.

    Attributes:
        means: the mean gradient of each layer.
        moments: second moments of single samples' gradients, of the layers whose bases are "fisher".
    """

    def __init__(self, layers: AdaptedLayers, largest: dict[str, int] | None) -> None:
        self.layers = layers
        # Sketching has a generator of its own: the bases' generator must not depend on the number of batches.
        self.sketching = torch.Generator().manual_seed(0)
        first, adapter = next(iter(layers.values()))
        self.device = first.deeplora_left[adapter].device
        self.means: dict[str, GradientSketch] = {}
        self.moments: dict[str, MomentSketch] = {}
        blanks: dict[Any, MomentSketch] = {}  # Layers of one shape share their random test matrices.
        for name, (layer, adapter) in layers.items():
            width = layer.width[adapter] if largest is None else max(largest[name], layer.width[adapter])
            like = layer.deeplora_left[adapter]
            shape, size = (layer.left_rows, layer.right_rows), 2 * width + OVERSAMPLE
            if layer.configs[adapter].bases == "fisher":
                key = (*shape, size, like.device)
                if key not in blanks:
                    blanks[key] = MomentSketch.empty(*shape, size, like)
                self.moments[name] = blanks[key]
                if largest is None and layer.has_pair_core(adapter):
                    size = min(size, REPORTED_VALUES)  # These bases need only the moments.
            self.means[name] = GradientSketch.empty(*shape, size, like)

    def add(self, name: str, output_grad: Tensor, inputs: Tensor) -> None:
        """Take in one batch's gradient of a layer, in two factors."""
        with without_autocast(self.device.type):
            self.means[name] = self.means[name].add(output_grad, inputs, self.sketching)
            if name in self.moments:
                self.moments[name] = self.moments[name].add(output_grad, inputs)

    def combine(self) -> None:
        """Join the sketches of all processes, and check that the loss reached every layer."""
        self.means, self.moments = averaged(self.means), summed(self.moments)
        _check_reached(self.means)

    def set_bases(self, generator: torch.Generator) -> None:
        """Write bases and start into every layer."""
        with without_autocast(self.device.type):
            for name, (layer, adapter) in self.layers.items():
                left, right = self._bases(name, layer, adapter, generator)
                layer.start(adapter, left, right, generator)
                for tensor in layer.tensors(adapter):
                    share(tensor)
                layer.configs[adapter].initialized = True

    def _bases(
        self, name: str, layer: DeepLoraLayer, adapter: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        mean, width = self.means[name], layer.width[adapter]
        if name not in self.moments:
            kind, rank = cast(GradientBases, layer.configs[adapter].bases), mean.rank()
            return bases_from_singular_vectors(
                mean.left[:, :rank], mean.right[:, :rank], width, kind, generator
            )
        left, right = (each.to(mean.left) for each in self.moments[name].directions(width))
        if layer.has_pair_core(
            adapter
        ):  # Its factors start at random, so that pairs of columns mean nothing.
            return complete(left, width, generator), complete(right, width, generator)
        return paired_bases(left, right, (mean.left, mean.values, mean.right), width, generator)


def _capture(
    model: nn.Module,
    layers: AdaptedLayers,
    gradients: _Gradients,
    dataloader: Iterable[Any],
    num_batches: int,
    loss_fn: Loss,
    progress: bool,
) -> None:
    """Run the batches forward and backward, and hand every layer's gradients over."""
    total = num_batches if not hasattr(dataloader, "__len__") else min(num_batches, len(dataloader))  # type: ignore[arg-type]
    with (
        capturing(model, layers, gradients.add) as run_backward,
        torch.random.fork_rng(devices=[]),
        tqdm(total=total, desc="bases", disable=not (progress and is_first())) as bar,
    ):
        for number, batch in enumerate(_in_step(dataloader, num_batches), 1):
            with failing_together():
                loss = loss_fn(model, send_to_device(batch, gradients.device))
                _check_loss(loss, number)
            with failing_together():
                run_backward(loss)
            bar.update()


def _in_step(dataloader: Iterable[Any], num_batches: int) -> Iterator[Any]:
    """At most `num_batches` batches, until the first process has none left: a sharded model runs in all or none."""
    stream, end = iter(dataloader), object()
    for number in range(num_batches):
        with failing_together():
            batch = next(stream, end)
        if any(gathered(batch is end)):
            if number == 0:
                raise ValueError("the dataloader gave no batch; initialize_bases needs at least one")
            return
        yield batch


def _loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    output = model(**batch) if hasattr(batch, "keys") else model(batch)
    loss = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
    if loss is None:
        raise ValueError(
            "the model returned no loss; put labels into the batches or pass loss_fn(model, batch)"
        )
    return loss


def _refuse_partitioned(layers: AdaptedLayers) -> None:
    for name, (layer, adapter) in layers.items():
        if layer.deeplora_left[adapter].is_meta:
            raise ValueError(
                f"the adapter of {name} is on the meta device, so no bases can be written into it; call "
                "initialize_bases before accelerate offloads the model"
            )
        strategy = partitioned_by(layer.deeplora_left[adapter], dimensions=2)
        if strategy is not None:
            raise ValueError(
                f"{strategy} has partitioned the adapter of {name}, so no bases can be written into it; call "
                "initialize_bases before the model is partitioned, or train with DDP or FSDP2 (fully_shard)"
            )


def _check_loss(loss: object, batch: int) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss_fn must return one number as a tensor; batch {batch} gave {loss!r}")
    if not torch.isfinite(loss):
        raise ValueError(f"the loss of batch {batch} is {loss.item()}; check its inputs and labels")


def _check_reached(sketches: dict[str, GradientSketch]) -> None:
    unreached = [name for name, sketch in sketches.items() if sketch.tokens == 0]
    if len(unreached) == len(sketches):
        raise ValueError(
            f"the loss does not depend on {len(unreached)} adapted layer(s): {_listed(unreached)}; leave them out with "
            "exclude_modules, or pass a loss_fn that reaches them"
        )
    if unreached:
        warnings.warn(
            f"the loss of these batches does not depend on {len(unreached)} layer(s), and their bases are random: "
            f"{_listed(unreached)}; layers that no batch will reach may be left out with exclude_modules",
            stacklevel=4,
        )
    zero = [name for name, sketch in sketches.items() if sketch.tokens > 0 and sketch.rank() == 0]
    if zero:
        warnings.warn(
            f"the gradient of {len(zero)} layer(s) is zero, and their bases are random: {_listed(zero)}",
            stacklevel=4,
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
