"""The settings of a fine-tuning run: the only source of the command's options and of config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from corefold.core import Bases
from corefold.errors import InputError, reason
from corefold.finetune.setting_types import checked, flag
from corefold.tables.atomic import write_text

# The one list of methods. `untouched` trains nothing, and so is for comparisons only.
KeptMethod = Literal[
    "deep-lora",
    "lora",
    "lora-ga",
    "lora-one",
    "eva",
    "pissa",
    "adalora",
    "dora",
    "vera",
    "full",
    "head",
    "embeddings",
]
MethodName = Literal[KeptMethod, "untouched"]
Kept = Literal["adapter", "model", "head"]  # the weights that a run keeps
TaskName = Literal[
    "classification",
    "multi-label",
    "token-classification",
    "regression",
    "causal-lm",
    "chat",
    "seq2seq",
    "embedding",
]
# A config.yaml of version 0.1.0 holds all of these.
SETTINGS_OF_0_1_0 = {
    "model", "train", "eval", "text", "text_pair", "label", "task", "method", "rank", "width", "depth", "bases",
    "basis_lr_ratio", "init_scale", "target_modules", "lr", "weight_decay", "head_lr", "steps", "batch_size", "samples",
    "eval_samples", "seed", "pair", "head", "separator", "max_length", "dtype", "tolerance", "checkpoint_every",
    "tracker",
}  # fmt: skip
Pair = Literal["joint", "separate"]
Head = Literal["own", "mean"]
Keep = Literal["last", "best"]
ClassWeight = Literal["balanced"]
Objective = Literal["cross-entropy", "pairs"]
# They stand in the place of None, where no run that the settings start from has others.
SEPARATOR, THRESHOLD, MAX_LENGTH = "\n", 0.5, 256


def _setting(default: Any, help: str, *flags: str) -> Any:
    return field(default=default, metadata={"help": help, "flags": flags})


@dataclass(frozen=True)
class SharedOptions:
    """The options that every method has; `RunConfig` documents them."""

    model: str = _setting("", "Model: a folder, a .gguf file, or a name on the Hugging Face hub.")
    revision: str | None = _setting(None, "Branch, tag or commit of a model on the hub.")
    from_run: str | None = _setting(
        None, "Folder of a finished run whose adapter and head train on, with its model and task.", "--from"
    )
    train: str = _setting(
        "",
        "Training data: a csv, tsv, jsonl, json, parquet, feather or xlsx file (.csv.gz and the like too), a folder of "
        "datasets' save_to_disk as FOLDER[:SPLIT], or a hub data set NAME[:CONFIG]:SPLIT.",
    )
    eval: str | None = _setting(
        None, "Evaluation data, as for --train. Default: a fifth of the training data, or --folds."
    )
    encoding: str | None = _setting(
        None,
        "Encoding of csv, tsv, jsonl and json files. Default: utf-8, or utf-16 if a file begins with its mark.",
    )
    delimiter: str | None = _setting(
        None,
        "Character between the cells of csv and tsv files. Default: a tab in .tsv; in .csv a comma, or the ';', tab or "
        "'|' that alone divides the header.",
    )
    text: str | None = _setting(
        None,
        "Column of the text (token-classification: lists of words; causal-lm: the prompt; seq2seq: the source; "
        "embedding: a text to search with).",
        "--text",
        "--prompt",
    )
    text_pair: str | None = _setting(
        None, "Column of a second text (embedding: the text that the search should find)."
    )
    label: str | None = _setting(
        None,
        "Column of the label: a class or a number (multi-label: lists of labels, or columns of 0 and 1 with commas "
        "between them; token-classification: lists of tags; causal-lm: the completion; seq2seq: the target; "
        "embedding: a text that does not match, which may be left out).",
        "--label",
        "--completion",
    )
    task: TaskName | None = _setting(
        None,
        "What to learn. Default: token-classification for lists of words and multi-label for lists of labels; "
        "causal-lm for columns prompt and completion of a language model; embedding for columns anchor and positive, "
        "with or without negative; where --label holds no classes, causal-lm "
        "for a language model and seq2seq for an encoder-decoder; otherwise regression for numbers with fractions or "
        "more than 50 values, and classification for all else.",
    )
    method: KeptMethod = _setting("deep-lora", "Method of training.")
    rank: int | None = _setting(
        None,
        "Rank of the update. Default: corefold.recipe's, which depends on the steps; 2 for lora and all other methods.",
    )
    target_modules: str = _setting(
        "all-linear", "Layers to adapt: all-linear, names with commas between them, or a regular expression."
    )
    exclude_modules: str | None = _setting(
        None,
        "Layers to leave out of --target-modules: names with commas between them, or a regular expression.",
    )
    lr: float | None = _setting(
        None,
        "Learning rate of everything that trains below the head. Default: corefold.recipe's, which depends on rank, "
        "rows, steps and head; 3e-4 for lora, and for other methods the rate of their papers.",
    )
    weight_decay: float | None = _setting(
        None,
        "AdamW's weight decay of everything that trains below the head. Default: corefold.recipe's, which depends on "
        "steps and head; 0 for lora and all other methods.",
    )
    head_lr: float | None = _setting(None, "Learning rate of the head. Default: corefold.recipe's.")
    steps: int | None = _setting(
        None, "Optimizer steps. Default: corefold.recipe's, some passes over the training rows within bounds."
    )
    batch_size: int = _setting(16, "Rows in each batch.")
    grad_accum: int = _setting(1, "Batches whose gradients make one step.")
    gradient_checkpointing: bool = _setting(
        False, "Compute activations again on the way back: less memory, a third more time."
    )
    samples: int | None = _setting(
        None, "Train on only this many rows. --seed draws them; classes keep their shares."
    )
    eval_samples: int | None = _setting(
        None, "Evaluate on only this many rows, drawn by --seed. Default: all."
    )
    folds: int | None = _setting(
        None,
        "Cross-validation: train this many times on all rows but a part of them, which judges, and at last on all "
        "rows. With --eval the last model is scored on those rows too.",
    )
    keep: Keep = _setting(
        "last",
        "Model to keep: that of the last step, or the best of the evaluations at each checkpoint, by its loss on a "
        "fifth of the training rows, which is held out of the training.",
    )
    patience: int | None = _setting(
        None,
        "Stop after this many evaluations in a row without a lower loss on a fifth of the training rows, which is "
        "held out of the training. Default: never stop early.",
    )
    objective: Objective | None = _setting(
        None,
        "Loss of a classifier with a new head: cross-entropy of the head; or pairs, the cosines of embeddings of each "
        "two rows of a batch, with 1 as aim for one class and 0 for two, and a head fitted to the embeddings in the "
        "end. Default: cross-entropy.",
    )
    class_weight: ClassWeight | None = _setting(
        None,
        "Weights of the classes in the training loss: balanced lets every class count the same, whatever its number of "
        "rows. Default: every row counts the same.",
    )
    seed: int = _setting(0, "Seed of the draw of rows and their order, of a new head and of random bases.")
    pair: Pair | None = _setting(
        None,
        "Read two texts as one input or as two embeddings. Default: separate for sentence encoders, otherwise joint.",
    )
    head: Head | None = _setting(
        None,
        "Head of an encoder: the checkpoint's own, or a new one on pooled tokens. Default: own if the checkpoint "
        "has one that fits the task, otherwise mean.",
    )
    separator: str | None = _setting(
        None,
        f"Text between prompt and completion (causal-lm). Default: a line end, {SEPARATOR!r}; with --from, the run's.",
    )
    threshold: float | None = _setting(
        None,
        "Probability from which a label is predicted (multi-label). "
        f"Default: {THRESHOLD:g}; with --from, the run's.",
    )
    max_length: int | None = _setting(
        None,
        f"Longest input in tokens; longer ones are cut. Default: {MAX_LENGTH}; with --from, the run's.",
    )
    dtype: Literal["float32", "bfloat16"] = _setting(
        "float32", "Precision of the base model; adapters stay float32."
    )
    load_in_4bit: bool = _setting(
        False, "Quantize the frozen base model to 4 bits (NF4) by bitsandbytes while it loads."
    )
    tolerance: float = _setting(0.01, "Largest relative error of a layer's update in the exported LoRA.")
    checkpoint_every: int | None = _setting(None, "Steps between checkpoints. Default: a tenth of the steps.")
    tracker: str = _setting(
        "none", "Experiment tracker, by its name in transformers' Trainer: tensorboard, wandb, mlflow, ..."
    )


@dataclass(frozen=True)
class DeepLoraOptions:
    """The options that Deep LoRA adds; the number of the bases' columns may be left open."""

    width: int | None = _setting(
        None,
        "Columns of the bases (deep-lora). 0 makes the paper's square core, with as many columns as the rank. Default: "
        "corefold.recipe's, which depends on the steps.",
    )
    depth: int = _setting(2, "Number of core factors (deep-lora). It must be 2 unless --width is 0.")
    bases: Bases = _setting(
        "fisher",
        "Source of the bases (deep-lora): gradients of single samples (fisher), the mean gradient (gradient, "
        "spectral), or chance (random).",
    )
    basis_lr_ratio: float = _setting(
        0.0, "Learning rate of the bases, as a multiple of the core's (deep-lora). 0 freezes them."
    )
    init_scale: float = _setting(
        0.1, "Each factor of a square core starts at this multiple of the identity (deep-lora)."
    )


@dataclass(frozen=True)
class RunConfig(DeepLoraOptions, SharedOptions):
    """Everything that decides a run, so that equal settings give equal results on one machine.

    The options of all methods lie beside each other, as in the command line and in `config.yaml`. None means: decided
    from the data and the model when the run starts; `config.yaml` then holds the decision.

    Raises:
        InputError: a value out of range or of the wrong type; the line names the setting.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(RunConfig)
        for each in fields(self):
            value = getattr(self, each.name)
            object.__setattr__(self, each.name, checked(each.name, value, hints[each.name]))
        if self.width is not None and self.width < 0:
            raise InputError(f"--width must be at least 0; got {self.width}")
        if self.width != 0 and self.depth != 2:
            got = "no --width" if self.width is None else f"--width {self.width}"
            raise InputError(f"--depth {self.depth} needs a square core: add --width 0; got {got}")
        for name in ("rank", "depth", "steps", "batch_size", "samples", "eval_samples", "max_length",
                     "checkpoint_every", "grad_accum", "patience"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{flag(name)} must be at least 1; got {getattr(self, name)}")
        if self.folds is not None and self.folds < 2:
            raise InputError(f"--folds must be at least 2; got {self.folds}")
        for name in ("lr", "head_lr", "init_scale"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{flag(name)} must be positive; got {getattr(self, name)}")
        for name in ("basis_lr_ratio", "weight_decay"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{flag(name)} must be 0 or positive; got {getattr(self, name)}")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"--tolerance is a relative error, 0 <= tolerance < 1; got {self.tolerance}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"--threshold is a probability, 0 < threshold < 1; got {self.threshold}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed must lie between 0 and 2**32 - 1; got {self.seed}")

    def filled(self, values: Mapping[str, Any]) -> RunConfig:
        """These settings, with `values` in the place of those that are None."""
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})

    def with_defaults(self) -> RunConfig:
        """These settings, with a value for those that are open yet need neither data nor model to be decided."""
        return self.filled({"separator": SEPARATOR, "threshold": THRESHOLD, "max_length": MAX_LENGTH})

    def save(self, path: Path) -> None:
        """Write as YAML."""
        write_text(path, yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True))


def load_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file, as keyword arguments of `RunConfig`.

    Raises:
        InputError: no such file, not a YAML mapping, or a setting that does not exist.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the settings {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {reason(error)}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold settings, one 'name: value' a line")
    known = {each.name for each in fields(RunConfig)}
    if unknown := sorted(str(name) for name in settings if name not in known):
        raise InputError(f"{path}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if {*settings} >= SETTINGS_OF_0_1_0 and (settings["rank"] or 0) > (settings["width"] or 0) > 0:
        # A run of version 0.1.0 wrote this for the square cores that it trained; its files hold every setting.
        return {**settings, "width": 0}
    return settings


def converted(name: str, value: Any) -> Any:
    """A setting's value with the type that the setting has.

    Raises:
        InputError: it has another type.
    """
    return checked(name, value, get_type_hints(RunConfig)[name])
