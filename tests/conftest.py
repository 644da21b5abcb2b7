"""One thread a process, shapes in annotations checked, long files first, little for the garbage collector to walk."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import jaxtyping
import pytest

# Tests run in parallel, so each process gets one thread. torch and numpy read these when they are first imported, and
# processes that tests start inherit them. numba keeps two threads, which its parallel loops need to be tested at all.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ["NUMBA_NUM_THREADS"] = "2"
# A thread that waits sleeps, instead of taking a core from another worker.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# What is imported stays, so that there is no garbage to look for before the first test.
gc.disable()

# The estimator refuses wrong shapes by itself, and numba compiles its loops as they stand.
UNCHECKED = ("estimator", "numba_kernels")
COMPLETION = (Path(__file__).parents[1] / "src/corefold/completion").glob("[!_]*")
CHECKED = [f"corefold.completion.{path.stem}" for path in COMPLETION if path.stem not in UNCHECKED]
# The hook must stand before anything imports corefold. Users do not pay for these checks.
HOOKED = ["corefold.core", "corefold.dynamics", "corefold.compare.statistics", *CHECKED]
jaxtyping.install_import_hook(HOOKED, "beartype.beartype")
# They are checked where the functions themselves are tested: a check takes longer than most small products, and would be
# a quarter of all tests' time. scikit-learn's battery is half a minute of small fits.
CHECKING = [Path(__file__).parent / folder for folder in ("compare", "completion", "core", "dynamics")]

_decorator = jaxtyping.jaxtyped
_decorated: set[CodeType] = set()  # the code of this test's inner functions


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """jaxtyping's decorator, but a function inside a function is decorated once a test, and not while checks are off.

    Such a function is made anew in every call of the one around it, and to decorate it takes most of a millisecond.
    """
    decorated = _decorator(typechecker=typechecker)

    def decorate(item: Any) -> Any:
        if isinstance(item, FunctionType) and "<locals>" in item.__qualname__:
            if jaxtyping.config.jaxtyping_disable or item.__code__ in _decorated:
                return item
            _decorated.add(item.__code__)
        return decorated(item)

    return decorate


jaxtyping.jaxtyped = jaxtyped  # The hook's modules take it from here.

import torch  # noqa: E402

from command import finished, reviews, two_layers_dir, unrendered  # noqa: E402, F401
from grids import grid, tiny  # noqa: E402, F401
from models import llama, minilm, minilm_dir, mpnet_dir, smollm2_dir  # noqa: E402, F401
from scripts import few_rows, run_main  # noqa: E402, F401

# They hold no examples, and pytest would take one for another.
collect_ignore_glob = ["*conftest.py", "children/*"]

# Files of half a minute or more, by --durations; and one that would be the last to start, with its new interpreters.
LONGEST = [
    "cli/test_commands.py",
    "adapters/host/test_compile.py",
    "cli/test_models.py",
    "cli/test_compare.py",
    "completion/test_estimator_battery.py",
    "examples/test_sft_example.py",
    "completion/test_completion_distributed.py",
    "adapters/deep_lora/test_initialize_memory.py",
    "benchmarks/test_benchmark_completion.py",
    "finetune/portable/test_portable.py",
    "completion/test_candidates.py",
    "test_registration.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: a worker that gets one of them last would run alone at the end."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in the tests of CHECKING only."""
    checked = any(item.path.is_relative_to(folder) for folder in CHECKING) and "battery" not in item.path.name
    jaxtyping.config.update("jaxtyping_disable", not checked)
    _decorated.clear()


@pytest.fixture(scope="session", autouse=True)
def light_children() -> None:
    """Processes that tests start import less; pytest's workers have started by now."""
    folders = [str(Path(__file__).parent / "children"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


@pytest.fixture(autouse=True)
def frozen() -> None:
    """Leave what is alive now, nearly all of it from imports, out of later collections.

    Otherwise each takes a quarter of a second. accelerate collects at each start of a training, and benchmarks often.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Back to one thread: numba's OpenMP loops and the workers of `corefold compare` change torch's number."""
    torch.set_num_threads(1)
