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
LEFT_OUT = ("callbacks", "random_state", "device")  # of the settings; what is loaded is on the CPU


def write(path: str | Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Tensors, and what else there is to say as JSON."""
    text = json.dumps(about, default=_plain)
    with atomic_write(path) as new:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, new, {FORMAT: text})


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write` wrote.

    Raises:
        ValueError: a file that `write` did not write.
    """
    wrong = f"{path} is not a saved DeepMatrixCompletion"
    try:
        with safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get(FORMAT)
            if about is None:
                raise ValueError(wrong)
            return json.loads(about), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(wrong) from error


def settings_to_plain(settings: dict[str, Any], solvers: dict[str, Any]) -> dict[str, Any]:
    """An estimator's settings, but what belongs to one run of a program; one of `solvers` as its name and settings.

    Raises:
        TypeError: a solver of another kind, of which a file cannot keep the code.
    """
    kept = {name: value for name, value in settings.items() if name not in LEFT_OUT}
    return kept | {"solver": _solver_to_plain(settings["solver"], solvers)}


def settings_from_plain(plain: dict[str, Any], solvers: dict[str, Any]) -> dict[str, Any]:
    """What `settings_to_plain` made plain."""
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
