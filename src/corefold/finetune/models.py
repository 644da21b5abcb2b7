"""The models of a run: adapted by PEFT, with a pooled head where one is needed."""

from __future__ import annotations

import re
import warnings
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from corefold.errors import InputError, reason
from corefold.finetune.config import Objective
from corefold.finetune.loading import head_names, load_base, weights_digest
from corefold.finetune.method import Decided
from corefold.finetune.objectives import pair_loss
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.tasks.text_head import PooledKind, head_features


def adapt(base: PreTrainedModel, task: Task, settings: Decided[Any]) -> PeftModel | PreTrainedModel:
    """`base` with a new adapter; or `base` itself if the method has none: then all of it trains, or its head alone.

    Raises:
        InputError: no layer matches, or the rank is larger than a layer.
    """
    own_head = head_names(base) if task.head == "own" else []
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
        "exclude_modules": _excluded(apart, settings.exclude_modules, base),
        "modules_to_save": own_head or None,
    }
    _check_rank(base, settings.rank, targets)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lora with eva initialization")  # it advises how to save memory
            warnings.filterwarnings(
                "ignore", "fan_in_fan_out is set to False"
            )  # PEFT sets it right for GPT-2.
            return get_peft_model(base, method.peft(settings, shared, base))  # type: ignore[return-value]
    except (ValueError, TypeError, re.error) as error:
        raise InputError(
            f"the model cannot be adapted with --target-modules {settings.target_modules}: {reason(error)}"
        ) from error


def _excluded(apart: list[str], wanted: str | None, base: nn.Module) -> str | None:
    """A regular expression of the layers without adapter: parts of the model, and those that the settings name.

    Raises:
        InputError: the settings name no layer, or are no regular expression.
    """
    patterns = [rf"({'|'.join(apart)})(\..*)?"] if apart else []
    if not wanted:
        return "|".join(patterns) or None
    each = [f"({wanted})"]
    if re.fullmatch(r"[\w.,\s]+", wanted):
        each = [rf"(.*\.)?{re.escape(name.strip())}(\..*)?" for name in wanted.split(",") if name.strip()]
    names = [name for name, _ in base.named_modules() if name]
    for pattern in each:
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise InputError(f"--exclude-modules {wanted} is no regular expression: {error}") from error
        if not found:
            raise InputError(
                f"--exclude-modules {wanted} leaves out nothing: no layer matches {pattern}; the last layers are "
                f"{', '.join(names[-3:])}"
            )
    return "|".join([*patterns, *each])


def _check_rank(base: nn.Module, rank: int, targets: Any) -> None:
    # A rank wider than every layer is a typing error: LoRA would waste memory, and Deep LoRA would lower it in silence.
    sides = [min(m.in_features, m.out_features) for m in base.modules() if isinstance(m, nn.Linear)]
    if targets == "all-linear" and sides and rank > max(sides):
        raise InputError(
            f"the model cannot be adapted: r={rank} exceeds the smaller side of every layer ({max(sides)})"
        )


class EncoderModel(nn.Module):
    """An adapted encoder with pooling and the head of the task.

    The kind of task says how the embeddings of a row's texts are joined. The state dict leaves out the frozen base, so
    that checkpoints stay as small as the adapter.
    """

    def __init__(self, encoder: PeftModel | PreTrainedModel, task: Task, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.task, self.kind = encoder, task, _pooled_kind(task)
        self.objective: Objective = "cross-entropy"
        self.pooling = None if task.pooling == "mean" else _pooling(encoder.config.hidden_size, task.pooling)
        self.head: nn.Linear | None = None
        if task.head == "mean":
            width = encoder.config.hidden_size * (3 if task.pair == "separate" else 1)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.head = nn.Linear(width, task.outputs)
        self.register_state_dict_post_hook(_leave_out_base)
        self.register_load_state_dict_post_hook(_expect_no_base)

    def train_for(self, objective: Objective) -> None:
        """Choose the loss that has a gradient; under "pairs" it is of embeddings, and the head does not train."""
        self.objective = objective
        if self.head is not None:
            self.head.requires_grad_(objective != "pairs")

    def forward(
        self,
        first: dict[str, Tensor],
        second: dict[str, Tensor] | None = None,
        third: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """The outputs of a batch, as the kind of task joins the embeddings of its texts."""
        embeddings = self._embeddings(first, second, third)
        outputs = self.kind.join(embeddings, self.head)
        if labels is None:
            loss = None
        elif self.objective == "pairs" and torch.is_grad_enabled():
            loss = pair_loss(embeddings[0], labels)
        else:
            loss = self.kind.loss(outputs, labels)
        return SequenceClassifierOutput(loss=loss, logits=outputs)  # type: ignore[arg-type]

    @torch.no_grad()
    def head_features(self, first: dict[str, Tensor], second: dict[str, Tensor] | None = None) -> Tensor:
        """What the head reads of a batch, (rows, width)."""
        return head_features(self._embeddings(first, second))

    def _embeddings(self, *parts: dict[str, Tensor] | None) -> list[Tensor]:
        return [self._embed(part) for part in parts if part is not None]

    def _embed(self, tokens: dict[str, Tensor]) -> Tensor:
        hidden = self.encoder(**tokens).last_hidden_state.float()
        if self.pooling is not None:
            features = {"token_embeddings": hidden, "attention_mask": tokens["attention_mask"]}
            return self.pooling(features)["sentence_embedding"]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden)
        return (hidden * mask).sum(1) / mask.sum(1)


def _pooling(width: int, mode: str) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(width, mode)  # type: ignore[arg-type]


def _pooled_kind(task: Task) -> PooledKind:
    kind = kind_of(task)
    if not isinstance(kind, PooledKind):
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


class Models(NamedTuple):
    """The models of a run.

    Attributes:
        adapted: the model with the adapter, or the plain model if the method has no adapter.
        trained: the model that trains: the same, or an `EncoderModel` around it.
        base_digest: `weights_digest` of the base model.
    """

    adapted: PeftModel | PreTrainedModel
    trained: nn.Module
    base_digest: str


def build(task: Task, settings: Decided[Any]) -> Models:
    """Load the base model and put a new adapter and a new head on it."""
    seed = settings.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = load_base(task, seed)
        digest = weights_digest(base)
        if settings.gradient_checkpointing:
            _enable_checkpointing(base)
        adapted = adapt(base, task, settings)
    return Models(adapted, with_head(adapted, task, seed), digest)


def _enable_checkpointing(base: PreTrainedModel) -> None:
    try:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise InputError(f"--gradient-checkpointing: {reason(error)}") from error


def with_head(adapted: PeftModel | PreTrainedModel, task: Task, seed: int = 0) -> nn.Module:
    """The model that trains and predicts: `adapted`, or an `EncoderModel` around it where the task pools tokens."""
    return EncoderModel(adapted, task, seed) if task.head in ("mean", "cosine") else adapted


def head_of(model: nn.Module, task: Task) -> list[nn.Parameter]:
    """The parameters of the head that trains; none where the task has no head of its own."""
    if isinstance(model, EncoderModel):
        return [] if model.head is None else list(model.head.parameters())
    if task.head != "own":
        return []
    own = () if isinstance(model, PeftModel) else head_names(model)  # type: ignore[arg-type]
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (".modules_to_save." in name or name.partition(".")[0] in own)
    ]
