"""Starts that adapters of other methods take from training data, by PEFT's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import initialize_lora_eva_weights
from torch import Tensor, nn

from corefold.errors import InputError

GRADIENT_BATCHES = 4  # of LoRA-GA and LoRA-One, as many as Deep LoRA's bases get
ONE_GAMMA, ONE_OVERSAMPLED, ONE_RIDGE = 128, 4, 1e-6  # of LoRA-One
EVA_ROWS = 128  # that EVA looks at
EVA_PASSES = 200  # after which it counts as not converging

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """What a start can look at.

    Attributes:
        adapted: the PEFT model.
        model: what trains: the same, or something around it; on the device that it trains on.
        rows: encoded training rows, in an order drawn by the seed.
        collate: makes a batch of rows.
        batch_size: rows a step.
    """

    adapted: Any
    model: nn.Module
    rows: Sequence[Any]
    collate: Callable[[Sequence[Any]], Batch]
    batch_size: int

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """The first batches of that many rows, where the model is."""
        device = next(self.model.parameters()).device
        for start in range(0, min(count * size, len(self.rows)), size):
            yield send_to_device(self.collate(self.rows[start : start + size]), device)


def eva(given: Given) -> None:
    """EVA (Paischer et al. 2024): directions of most variance in each layer's input, ranks where they explain most.

    It sees all its rows at once. PEFT goes on until the directions rest, which in batches of a training step takes
    a hundred passes and more, and in one batch three.

    Raises:
        InputError: the directions do not come to rest.
    """
    config = given.adapted.peft_config["default"]
    wanted = round(config.r * config.eva_config.rho)
    inputs = [part for batch in given.batches(1, EVA_ROWS) for part in _inputs(batch)]
    passes = 0

    def forward(model: Any, batch: Batch) -> None:
        nonlocal passes
        passes += 1
        if passes > EVA_PASSES:
            raise InputError(f"EVA's directions still turn after {EVA_PASSES} passes; lower the rank")
        model(**batch)

    def rows(layer_input: Any, places: Tensor, name: str) -> Tensor:
        # PEFT's own takes the tokens at `places` and knows no layer that sees one row a text, as poolers do. Rows
        # are repeated where there are fewer than directions, for it would wait for more of them without end.
        x = layer_input[0] if isinstance(layer_input, tuple | list) else layer_input
        x = (x[tuple(places.T)] if x.ndim == 3 else x.reshape(-1, x.shape[-1])).contiguous()
        return x.repeat(-(-wanted // len(x)), 1) if len(x) < wanted else x

    initialize_lora_eva_weights(
        given.adapted, inputs, forward_fn=forward, prepare_layer_inputs_fn=rows, show_progress_bar=False
    )


def _inputs(batch: Batch) -> Iterator[Batch]:
    """What the adapted model itself gets of a batch: each text of a pair; labels only where each token has one."""
    if "first" in batch:
        yield from (batch[name] for name in ("first", "second") if name in batch)
    elif batch["labels"].shape == batch["input_ids"].shape:
        yield batch
    else:
        yield {name: value for name, value in batch.items() if name != "labels"}


def lora_ga(given: Given) -> None:
    """LoRA-GA (Wang et al. 2024): the pair starts along the gradient of the loss, and the weight without it.

    PEFT's `preprocess_loraga` looks at a model that has no adapter yet and computes its own loss. These adapters
    add nothing yet, so the gradient of the weights below them is the same.
    """
    config = given.adapted.peft_config["default"].lora_ga_config
    for layer, gradient in _gradients(given, "LoRA-GA"):
        layer.get_base_layer()._peft_loraga_grad = gradient
        layer.lora_ga_init("default", config)


def lora_one(given: Given) -> None:
    """LoRA-One (Zhang, Liu, Chen 2025): the pair starts as a step of gradient descent, and the weight stays as it is.

    With `-G = U diag(s) V^T` the factors are `U_r diag(s / s_1)^(1/2)` and its like on the other side, each times
    `out^(1/4) / gamma^(1/2)`, as its authors' code has it.
    """
    for layer, gradient in _gradients(given, "LoRA-One"):
        rank, size = layer.r["default"], ONE_OVERSAMPLED * layer.r["default"]
        u, s, v = torch.svd_lowrank(-gradient.float(), min(size, *gradient.shape), niter=4)
        root = (s[:rank] / s[0].clamp(min=torch.finfo(s.dtype).tiny)).sqrt()
        scale = len(gradient) ** 0.25 / ONE_GAMMA**0.5
        with torch.no_grad():
            layer.lora_B["default"].weight.copy_(scale * u[:, :rank] * root)
            layer.lora_A["default"].weight.copy_((scale * v[:, :rank] * root).mT)


def lora_layers(model: nn.Module) -> list[Any]:
    """The layers that carry a LoRA of PEFT's."""
    return [module for module in model.modules() if hasattr(module, "lora_ga_init")]


def _gradients(given: Given, name: str) -> Iterator[tuple[Any, Tensor]]:
    """The layers with a LoRA that adds nothing yet, and the mean gradient of the weight below."""
    layers = lora_layers(given.adapted)
    weights = [layer.get_base_layer().weight for layer in layers]
    given.model.eval()
    trained = [parameter for parameter in given.model.parameters() if parameter.requires_grad]
    try:
        _require_grad(trained, False)
        _require_grad(weights, True)
        batches = list(given.batches(GRADIENT_BATCHES, given.batch_size))
        for batch in batches:
            (given.model(**batch).loss / len(batches)).backward()
    finally:
        _require_grad(weights, False)
        _require_grad(trained, True)
    for layer, weight in zip(layers, weights, strict=True):
        if weight.grad is None:
            raise InputError(f"{name} needs a gradient, and the loss does not reach every adapted layer")
        gradient, weight.grad = weight.grad, None
        yield layer, gradient


def _require_grad(parameters: list[nn.Parameter], wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


def keep_orthogonal(given: Given) -> None:
    """AdaLoRA (Zhang et al. 2023): add its penalty to the loss, where PEFT does not since it sees no loss.

    PEFT adds it to the loss that the adapted model returns; a head around that model makes a loss of its own.
    """
    if given.model is given.adapted:
        return
    weight = given.adapted.peft_config["default"].orth_reg_weight
    names = [name for name, _ in given.adapted.named_parameters() if ".lora_A." in name or ".lora_B." in name]

    def add(model: nn.Module, arguments: Any, output: Any) -> None:
        if model.training and output.loss is not None:
            tensors = dict(given.adapted.named_parameters())
            parts = [_defect(tensors[n].mT if ".lora_B." in n else tensors[n]) for n in names]
            output.loss = output.loss + weight * torch.stack(parts).mean()

    given.model.register_forward_hook(add)


def _defect(rows: Tensor) -> Tensor:
    """How far the rows are from orthonormal, `||rows rows^T - I||_F`."""
    return torch.linalg.norm(rows @ rows.mT - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
