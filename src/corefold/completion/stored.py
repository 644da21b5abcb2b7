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

FORMAT = "corefold"


def write(path: str | Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Tensors, and what else there is to say as JSON."""
    text = json.dumps(about, default=_plain)
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path, {FORMAT: text})


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


def solver_to_plain(solver: Any, known: dict[str, Any]) -> Any:
    """A name, or one of the library's solvers as its name and settings.

    Raises:
        TypeError: a solver of another kind, of which a file cannot keep the code.
    """
    if isinstance(solver, str):
        return solver
    for name, kind in known.items():
        if type(solver) is kind:
            return {"name": name, **asdict(solver)}
    raise TypeError(
        f"save keeps the solvers {', '.join(known)}; got {type(solver).__name__}, whose code it cannot keep"
    )


def solver_from_plain(plain: Any, known: dict[str, Any]) -> Any:
    """What `solver_to_plain` made plain."""
    if isinstance(plain, str):
        return plain
    settings = {key: value for key, value in plain.items() if key != "name"}
    return known[plain["name"]](**settings)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
