"""The output folder of a run: the names of its files, which are written whole and checked before use."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from peft import PeftConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.config import RunConfig
from corefold.finetune.loading import load_tokenizer
from corefold.finetune.models import EncoderModel, with_head
from corefold.finetune.processes import is_first, wait_for_all
from corefold.finetune.saving import ADAPTER, ADAPTER_CONFIG, HEAD, SAVINGS, WHOLE, WHOLE_CONFIG
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from corefold.tables.atomic import write_json

TASK, MANIFEST = "task.json", "manifest.json"
METRICS, HISTORY, SETTINGS, REPORT = "metrics.json", "history.json", "config.yaml", "report.html"
CHECKPOINTS = ".checkpoints"  # holds nothing of the user's, and is removed when a run ends
DATA = "data.json"  # in CHECKPOINTS: digests of the rows, which a resumed run must find unchanged
LORA, CARD = "lora", "README.md"
CHECKED = (ADAPTER, ADAPTER_CONFIG, WHOLE, WHOLE_CONFIG, HEAD, TASK)


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
        task: the task that it learned.
        adapted: the base model with the adapter, or the plain model if the method has no adapter.
        model: the model that predicts: `adapted`, or an `EncoderModel` around it.
        tokenizer: the tokenizer that it was trained with.
    """

    task: Task
    adapted: Any
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase


def check_apart(out: Path, output: Path, base: str | None = None) -> None:
    """Raise InputError if `output` is the folder of the run itself or of its base model, which would be replaced.

    Args:
        out: the folder of the run.
        output: the folder to write.
        base: the place of the base model. Default: the one that the run names.
    """
    if _is_same(out, output):
        raise InputError(f"{output} holds the adapter itself; -o must name another folder")
    if base is None and (out / TASK).exists():
        base = Task.load(out / TASK).model
    if base is not None and _is_same(Path(base), output):
        raise InputError(f"{output} holds the base model of {out}; -o must name another folder")


def check_output(out: Path, config: RunConfig) -> None:
    """Raise InputError if a run would be written over its model, or over the run that it starts from."""
    for flag, source in (("--model", config.model), ("--from", config.from_run)):
        if source and _is_same(Path(source), out):
            raise InputError(f"-o {out} is the folder of {flag}, which would be lost; name another folder")


def _is_same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: the file is cut or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is cut or broken; restore it or start again") from error


def stored_or_computed(path: Path, compute: Callable[[], Any]) -> Any:
    """The value that an earlier part of the run stored at `path`, or else `compute()`, which is stored there."""
    if path.exists():
        return read_json(path)
    value = compute()
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    wait_for_all()
    return value


def save_model(out: Path, run: Run, initial: Path | None = None) -> None:
    """Write the trained weights, tokenizer and task, and last the manifest with their SHA-256.

    Args:
        out: the folder.
        run: the run.
        initial: the folder of the adapter before training, where its start was taken out of the base model's weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / HEAD).unlink(missing_ok=True)
    SAVINGS[run.task.kept].save(out, run.adapted, run.task, initial)
    if isinstance(run.model, EncoderModel) and run.model.head is not None:
        save_file({k: v.contiguous() for k, v in run.model.head.state_dict().items()}, out / HEAD)
    if run.task.head != "lm":
        run.tokenizer.model_max_length = run.task.max_length  # Other tools cut texts where this run does.
    run.tokenizer.save_pretrained(str(out))
    run.task.save(out / TASK)
    write_json(out / MANIFEST, {name: _sha256(out / name) for name in CHECKED if (out / name).exists()})


def check_adapter(out: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Configuration and tensors of an adapter folder, verified against its manifest if it has one.

    Raises:
        InputError: no adapter, or a file that was cut or changed.
    """
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    if not (out / ADAPTER_CONFIG).exists() or not (out / ADAPTER).exists():
        raise InputError(f"{out} holds no adapter ({ADAPTER_CONFIG} and {ADAPTER})")
    check_files(out)
    return _adapter(out)


def _adapter(out: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    try:
        config, state = PeftConfig.from_pretrained(str(out)), load_file(out / ADAPTER)
    except SafetensorError as error:
        raise InputError(f"{out / ADAPTER} is cut or broken: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{out / ADAPTER_CONFIG} cannot be read: {error}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(f"{out / ADAPTER}: tensor {name} is not finite; train again")
    return config, state


def check_files(out: Path) -> None:
    """Check the files of a run against its manifest, if it has one.

    Raises:
        InputError: a file that was cut or changed.
    """
    for name, expected in _manifest(out / MANIFEST).items() if (out / MANIFEST).exists() else ():
        if not (out / name).exists():
            raise InputError(f"{out / name} is missing; restore it or train again")
        if _sha256(out / name) != expected:
            raise InputError(
                f"{out / name} is not what training wrote (SHA-256 differs); restore it or train again"
            )


def _manifest(path: Path) -> dict[str, str]:
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is cut or broken; restore it or start again")
    return {str(name): str(digest) for name, digest in manifest.items()}


def load_run(out: Path, *, base: str | None = None, trainable: bool = False, quantized: bool = True) -> Run:
    """Load the folder that `save_model` wrote.

    Args:
        out: the folder.
        base: the place of the base model, if it is no longer where it was when the run was trained.
        trainable: whether the adapter and the head train on; the model is in evaluation mode all the same.
        quantized: whether a base model that training quantized is quantized again.

    Raises:
        InputError: not the folder of a finished run, one that was changed, or another base model.
    """
    if not (out / TASK).exists() or not (out / MANIFEST).exists():
        check_adapter(out)
        raise InputError(f"{out} is not the folder of a finished corefold finetune (no {TASK} or {MANIFEST})")
    check_files(out)
    task = Task.load(out / TASK)
    if task.kept == "adapter":
        _adapter(out)
    if not quantized and task.load_in_4bit:
        task = replace(
            task, load_in_4bit=False, base_digest=""
        )  # The digest is that of the quantized weights.
    if base is not None:
        task = replace(task, model=base)
    elif SAVINGS[task.kept].needs_base and _is_missing_folder(task.model):
        raise InputError(
            f"the base model {task.model} of {out} is no longer there; name its place with --base"
        )
    adapted = SAVINGS[task.kept].load(out, task, trainable)
    model = with_head(adapted, task)
    if isinstance(model, EncoderModel) and model.head is not None:
        model.head.load_state_dict(load_file(out / HEAD))
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    tokenizer = load_tokenizer(str(out))
    kind_of(task).prepare_tokenizer(tokenizer)  # A run of an older version keeps it as the checkpoint has it.
    return Run(task, adapted, model, tokenizer)


def _is_missing_folder(model: str) -> bool:
    """Whether `model` is an absolute path, as a run records files and folders, at which there is nothing."""
    return Path(model).is_absolute() and not Path(model).exists()


def last_checkpoint(folder: Path, before: int) -> Path | None:
    """The newest complete checkpoint before step `before` at which training went on.

    Trainer writes trainer_state.json last. It would train one step too many if it resumed after the last step, or where
    it stopped early.
    """
    steps = sorted((int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*"))
    return next((path for step, path in reversed(steps) if step < before and _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    if control.get("should_training_stop"):
        return False
    pickles = [checkpoint / name for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")]
    return all(map(is_zipfile, pickles)) and all(map(_opens, checkpoint.glob("*.safetensors")))


def _opens(weights: Path) -> bool:
    """Whether a file of weights has all the bytes of which its header tells."""
    try:
        with safe_open(weights, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def point_to_best(checkpoint: Path) -> None:
    """Make a checkpoint name its best sibling where that now lies: Trainer forgets the best one of a moved folder."""
    path = checkpoint / "trainer_state.json"
    state = read_json(path)
    if state.get("best_model_checkpoint") and is_first():
        best = checkpoint.absolute().parent / Path(state["best_model_checkpoint"]).name
        write_json(path, {**state, "best_model_checkpoint": str(best)})
    wait_for_all()


def remove(folder: Path) -> None:
    """Remove a folder of checkpoints, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
