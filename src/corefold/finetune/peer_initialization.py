"""How the adapters of other methods start from training data; PEFT's own code does it where it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import initialize_lora_eva_weights
from torch import Tensor, nn

from corefold.adapters.host.internals import give_lora_ga_gradient
from corefold.errors import InputError
from corefold.finetune.encoding import IGNORED, PARTS

GRADIENT_BATCHES = 4  # as many as Deep LoRA reads its bases from in a short run
LORA_ONE_GAMMA = 128
LORA_ONE_OVERSAMPLING = 4  # columns of the randomized SVD over the rank
LORA_ONE_RIDGE = 1e-6
EVA_ROWS = 128
EVA_MAX_PASSES = 200

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class InitializationData:
    """A model and the training rows that its adapter may be initialized from.

    Attributes:
        adapted: the PEFT model.
        model: the model that trains, on the device where it trains: the same, or one around it.
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
        """The first `count` batches of `size` rows, on the model's device."""
        device = next(self.model.parameters()).device
        for start in range(0, min(count * size, len(self.rows)), size):
            yield send_to_device(self.collate(self.rows[start : start + size]), device)


def initialize_eva(data: InitializationData) -> None:
    """EVA (Paischer et al. 2024): directions of most variance in each layer's input, ranks where they explain most.

    All rows form one batch. PEFT repeats the passes until the directions converge, which takes three passes over one
    batch, and a hundred or more over batches of the size of a training step.

    Raises:
        InputError: the directions do not converge.
    """
    config = data.adapted.peft_config["default"]
    wanted = round(config.r * config.eva_config.rho)
    inputs = [part for batch in data.batches(1, EVA_ROWS) for part in _inputs(batch)]
    passes = 0

    def forward(model: Any, batch: Batch) -> None:
        nonlocal passes
        passes += 1
        if passes > EVA_MAX_PASSES:
            raise InputError(
                f"EVA's directions have not converged after {EVA_MAX_PASSES} passes; lower the rank"
            )
        model(**batch)

    def masks(batch: Batch, _: Any) -> list[Tensor]:
        # PEFT's own function joins the masks of inputs and labels, which have other lengths in an encoder-decoder.
        mask, labels = batch["attention_mask"].bool(), batch.get("labels")
        if labels is None or labels.is_floating_point():  # The latter are those of texts with several labels.
            return [mask]
        learned = labels != IGNORED
        return [mask, learned] if data.adapted.config.is_encoder_decoder else [mask & learned]

    def rows(layer_input: Any, masks: list[Tensor], name: str) -> Tensor:
        # PEFT's own function fails in layers that see one row for each text, as poolers do. With fewer rows than
        # directions PEFT would wait for more without end, so repeat the rows.
        x = layer_input[0] if isinstance(layer_input, tuple | list) else layer_input
        # The layers of a decoder see the targets, but for those that attend to the encoder.
        order = reversed(masks) if "decoder" in name else masks
        fitting = (mask for mask in order if x.ndim == 3 and mask.shape == x.shape[:2])
        mask = next(fitting, None)
        x = (x.reshape(-1, x.shape[-1]) if mask is None else x[mask]).contiguous()
        return x.repeat(-(-wanted // len(x)), 1) if len(x) < wanted else x

    initialize_lora_eva_weights(
        data.adapted,
        inputs,
        forward_fn=forward,
        prepare_model_inputs_fn=masks,
        prepare_layer_inputs_fn=rows,
        show_progress_bar=False,
    )


def _inputs(batch: Batch) -> Iterator[Batch]:
    """The inputs of the adapted model itself: each text of a pair alone, and labels if they are several a row."""
    if "first" in batch:
        yield from (batch[name] for name in PARTS if name in batch)
    elif batch["labels"].ndim > 1:  # an encoder-decoder makes the decoder's inputs of them
        yield batch
    else:
        yield {name: value for name, value in batch.items() if name != "labels"}


def initialize_lora_ga(data: InitializationData) -> None:
    """LoRA-GA (Wang et al. 2024): the pair starts along the gradient of the loss, and is subtracted from the weight.

    PEFT's `preprocess_loraga` wants a model without adapters and computes its own loss. These adapters add nothing
    yet, so that the gradient of the weights below them is the same.
    """
    config = data.adapted.peft_config["default"].lora_ga_config
    for layer, gradient in _gradients(data, "LoRA-GA"):
        give_lora_ga_gradient(layer, gradient)
        layer.lora_ga_init("default", config)


def initialize_lora_one(data: InitializationData) -> None:
    """LoRA-One (Zhang, Liu, Chen 2025): the pair starts as a step of gradient descent; the weight keeps its value.

    With `-G = U diag(s) V^T` the factors are `U_r diag(s / s_1)^(1/2)` and `diag(s / s_1)^(1/2) V_r^T`, each times
    `out^(1/4) / gamma^(1/2)`, as in the code of its authors.
    """
    for layer, gradient in _gradients(data, "LoRA-One"):
        rank, size = layer.r["default"], LORA_ONE_OVERSAMPLING * layer.r["default"]
        if getattr(layer, "fan_in_fan_out", False):  # GPT-2 keeps its weights as (in, out).
            gradient = gradient.mT
        u, s, v = torch.svd_lowrank(-gradient.float(), min(size, *gradient.shape), niter=4)
        root = (s[:rank] / s[0].clamp(min=torch.finfo(s.dtype).tiny)).sqrt()
        scale = len(gradient) ** 0.25 / LORA_ONE_GAMMA**0.5
        with torch.no_grad():
            layer.lora_B["default"].weight.copy_(scale * u[:, :rank] * root)
            layer.lora_A["default"].weight.copy_((scale * v[:, :rank] * root).mT)


def lora_layers(model: nn.Module) -> list[Any]:
    """The layers that carry a LoRA of PEFT's."""
    return [module for module in model.modules() if hasattr(module, "lora_ga_init")]


def _gradients(data: InitializationData, name: str) -> Iterator[tuple[Any, Tensor]]:
    """Each layer with a LoRA that adds nothing yet, and the mean gradient of the weight below it."""
    layers = lora_layers(data.adapted)
    weights = [layer.get_base_layer().weight for layer in layers]
    data.model.eval()
    trained = [parameter for parameter in data.model.parameters() if parameter.requires_grad]
    try:
        _require_grad(trained, False)
        _require_grad(weights, True)
        batches = list(data.batches(GRADIENT_BATCHES, data.batch_size))
        for batch in batches:
            (data.model(**batch).loss / len(batches)).backward()
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


def add_orthogonality_penalty(data: InitializationData) -> None:
    """AdaLoRA (Zhang et al. 2023): add its orthogonality penalty to the loss of a head around the adapted model.

    PEFT adds the penalty to the loss that the adapted model returns, but a head around it computes its own loss.
    """
    if data.model is data.adapted:
        return
    weight = data.adapted.peft_config["default"].orth_reg_weight
    names = [name for name, _ in data.adapted.named_parameters() if ".lora_A." in name or ".lora_B." in name]

    def add(model: nn.Module, arguments: Any, output: Any) -> None:
        if model.training and output.loss is not None:
            tensors = dict(data.adapted.named_parameters())
            parts = [_defect(tensors[n].mT if ".lora_B." in n else tensors[n]) for n in names]
            output.loss = output.loss + weight * torch.stack(parts).mean()

    data.model.register_forward_hook(add)


def _defect(rows: Tensor) -> Tensor:
    """How far the rows are from orthonormal: `||rows rows^T - I||_F`."""
    return torch.linalg.norm(rows @ rows.mT - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
