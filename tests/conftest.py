"""Shapes in annotations of core, dynamics, completion and statistics are checked in every test; users pay nothing."""

from pathlib import Path

import jaxtyping

# Not the estimator, which refuses what it is not made for by itself, nor loops that numba compiles as they stand.
UNCHECKED = ("estimator", "numba_kernels")
COMPLETION = (Path(__file__).parents[1] / "src/corefold/completion").glob("[!_]*")
CHECKED = [f"corefold.completion.{path.stem}" for path in COMPLETION if path.stem not in UNCHECKED]
# Before anything imports corefold.
HOOKED = ["corefold.core", "corefold.dynamics", "corefold.compare.statistics", *CHECKED]
jaxtyping.install_import_hook(HOOKED, "beartype.beartype")

import os  # noqa: E402

# Read when torch is first imported: its threads sleep while they wait, or tests crawl beside another busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from command import finished, reviews  # noqa: E402, F401
from grids import grid, tiny  # noqa: E402, F401
from models import llama, minilm, minilm_dir, mpnet_dir, smollm2_dir  # noqa: E402, F401
