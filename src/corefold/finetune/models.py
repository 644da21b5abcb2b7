"""The models of a run: loaded by transformers, adapted by PEFT, with a pooled head where one is needed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from corefold.errors import InputError
from corefold.finetune.method import Decided
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.tasks.text_head import TextHeadKind


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a padding token."""
    tokenizer = _load(AutoTokenizer, source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(task: Task, seed: int = 0) -> PreTrainedModel:
    """The base model that the task needs; a head of its own that is new is drawn by `seed`."""
    model_class, arguments = kind_of(task).model_class(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _load(model_class, task.model, dtype=getattr(torch, task.dtype), **arguments)
    if task.head == "own":
        model.config.pad_token_id = load_tokenizer(task.model).pad_token_id
    return model


def _load(auto: Any, source: str, **kwargs: Any) -> Any:
    gguf = Path(source).suffix == ".gguf"
    where = str(Path(source).parent) if gguf else source
    try:
        loaded = auto.from_pretrained(where, **kwargs, **({"gguf_file": Path(source).name} if gguf else {}))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the model {source} cannot be loaded: {first}") from error
    return _dequantized(loaded) if gguf and isinstance(loaded, nn.Module) else loaded


def _dequantized(model: Any) -> Any:
    """The same weights in a plain model: transformers unpacks a gguf file, yet refuses to train the result."""
    plain = type(model)(model.config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.name_or_path = model.name_or_path
    return plain


def adapt(base: PreTrainedModel, task: Task, settings: Decided[Any]) -> PeftModel | PreTrainedModel:
    """`base` with a new adapter; or `base` itself if the method has none: then all of it trains, or its head alone.

    Raises:
        InputError: no layer matches, or the rank is larger than a layer.
    """
    own_head = _own_head(base) if task.head == "own" else []
    poolers = [name for name, _ in base.named_children() if name == "pooler"] if task.head != "lm" else []
    apart = own_head or poolers
    method = settings.method
    if method.peft is None:
        for name, parameter in base.named_parameters():
            part = name.partition(".")[0]
            trains = part in own_head or (method.trains_body and part not in poolers)
            parameter.requires_grad_(trains and method.trains)
        return base
    targets: Any = settings.target_modules
    if targets != "all-linear" and re.fullmatch(r"[\w.,\s]+", targets):
        targets = [name.strip() for name in targets.split(",")]
    shared = {
        "r": settings.rank,
        "target_modules": targets,
        "task_type": kind_of(task).peft_task_type(task),
        # All weights of a head train. Mean pooling bypasses an encoder's pooler, so an adapter there gets no gradient.
        "exclude_modules": rf"({'|'.join(apart)})(\..*)?" if apart else None,
        "modules_to_save": own_head or None,
    }
    _check_rank(base, settings.rank, targets)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lora with eva initialization")  # it advises how to save memory
            return get_peft_model(base, method.peft(settings, shared, base))  # type: ignore[return-value]
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"the model cannot be adapted with --target-modules {settings.target_modules}: {first}"
        ) from error


def _own_head(base: PreTrainedModel) -> list[str]:
    """The parts of a model for sequence classification beside its body: "classifier", "score"..."""
    parts = base.named_children()
    return [
        name
        for name, part in parts
        if name != base.base_model_prefix and any(True for _ in part.parameters())
    ]


def _check_rank(base: nn.Module, rank: int, targets: Any) -> None:
    # A rank wider than every layer is a typing error: LoRA would waste memory, and Deep LoRA would lower it in silence.
    sides = [min(m.in_features, m.out_features) for m in base.modules() if isinstance(m, nn.Linear)]
    if targets == "all-linear" and sides and rank > max(sides):
        raise InputError(
            f"the model cannot be adapted: r={rank} exceeds the smaller side of every layer ({max(sides)})"
        )


class EncoderModel(nn.Module):
    """An adapted encoder with mean pooling and the head of the task.

    One text: a linear head on its embedding. Two texts as two embeddings u, v: their cosine for regression, a
    linear head on [u, v, |u - v|] for classes (Reimers and Gurevych 2019). Its state dict leaves out the frozen
    base, so that checkpoints stay as small as the adapter.
    """

    def __init__(self, encoder: PeftModel | PreTrainedModel, task: Task, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.task, self.kind = encoder, task, _text_head_kind(task)
        self.head: nn.Linear | None = None
        if task.head == "mean":
            width = encoder.config.hidden_size * (3 if task.pair == "separate" else 1)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.head = nn.Linear(width, task.outputs)
        self.register_state_dict_post_hook(_leave_out_base)
        self.register_load_state_dict_post_hook(_expect_no_base)

    def forward(
        self, first: dict[str, Tensor], second: dict[str, Tensor] | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Logits (rows, outputs) of a batch, or cosines (rows,); on the scale of the task's outputs."""
        u = self._embed(first)
        if second is None:
            logits = self._head(u)
        else:
            v = self._embed(second)
            logits = (
                torch.cosine_similarity(u, v)
                if self.head is None
                else self._head(torch.cat([u, v, (u - v).abs()], 1))
            )
        loss = None if labels is None else self.kind.loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]

    def _embed(self, tokens: dict[str, Tensor]) -> Tensor:
        hidden = self.encoder(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden)
        return (hidden * mask).sum(1) / mask.sum(1)

    def _head(self, features: Tensor) -> Tensor:
        if self.head is None:
            raise InputError("a single text needs a head; the task has none")
        return self.head(features)


def _text_head_kind(task: Task) -> TextHeadKind:
    kind = kind_of(task)
    if not isinstance(kind, TextHeadKind):
        raise InputError(f"a task of kind {task.kind} has no head on pooled tokens")
    return kind


def _leave_out_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if _is_base(module, key)]:
        del state[key]


def _expect_no_base(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not _is_base(module, key)]


def _is_base(module: nn.Module, key: str) -> bool:
    if not isinstance(module.encoder, PeftModel):
        return False
    return module.encoder.base_model.prefix not in key and "head." not in key  # type: ignore[union-attr]


def build(task: Task, settings: Decided[Any]) -> tuple[PeftModel | PreTrainedModel, nn.Module]:
    """The adapted model, and the model that trains: the same, or an `EncoderModel` around it."""
    seed = settings.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = adapt(load_base(task, seed), task, settings)
    return adapted, adapted if task.head in ("own", "lm") else EncoderModel(adapted, task, seed)


def head_of(model: nn.Module, task: Task) -> list[nn.Parameter]:
    """The parameters of the head that trains; none where the task has no head of its own."""
    if isinstance(model, EncoderModel):
        return [] if model.head is None else list(model.head.parameters())
    if task.head != "own":
        return []
    own = () if isinstance(model, PeftModel) else _own_head(model)  # type: ignore[arg-type]
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (".modules_to_save." in name or name.partition(".")[0] in own)
    ]
