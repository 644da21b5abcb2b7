"""A fitted estimator as one safetensors file; nothing in it is code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from corefold.tables.atomic import atomic_write

FORMAT = "corefold"
UNSAVED_SETTINGS = ("callbacks", "random_state", "device")  # they belong to one run of a program


def write(path: str | Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write tensors, and metadata as JSON."""
    text = json.dumps(metadata, default=_plain)
    with atomic_write(path) as new:
        save_file(_unshared(tensors), new, {FORMAT: text})


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file that `write` wrote.

    Raises:
        ValueError: another file.
    """
    wrong = f"{path} is not a saved DeepMatrixCompletion"
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(FORMAT)
            if metadata is None:
                raise ValueError(wrong)
            # Copied, because processors round in another order where memory does not begin at a multiple of 64 bytes.
            return json.loads(metadata), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(wrong) from error


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each in memory of its own, as the format asks for."""
    kept: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        plain = tensor.contiguous().cpu()
        kept[name] = plain.clone() if plain.numel() and plain.data_ptr() in places else plain
        places.add(plain.data_ptr())
    return kept


def settings_to_plain(settings: dict[str, Any], solvers: dict[str, Any]) -> dict[str, Any]:
    """An estimator's settings as JSON can hold them; a solver object as its name in `solvers` and its own settings.

    Raises:
        TypeError: a solver that is not in `solvers`, because a file cannot hold its code.
    """
    saved = {name: value for name, value in settings.items() if name not in UNSAVED_SETTINGS}
    return saved | {"solver": _solver_to_plain(settings["solver"], solvers)}


def settings_from_plain(plain: dict[str, Any], solvers: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `settings_to_plain`."""
    solver = plain["solver"]
    if not isinstance(solver, str):
        settings = {name: value for name, value in solver.items() if name != "name"}
        solver = solvers[solver["name"]](**settings)
    return plain | {"solver": solver}


def _solver_to_plain(solver: Any, known: dict[str, Any]) -> Any:
    if isinstance(solver, str):
        return solver
    for name, kind in known.items():
        if type(solver) is kind:
            return {"name": name, **asdict(solver)}
    raise TypeError(
        f"save keeps the solvers {', '.join(known)}; got {type(solver).__name__}, whose code it cannot keep"
    )


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
