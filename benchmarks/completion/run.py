"""How well and how fast is a matrix completed? DeepMatrixCompletion, no setting touched, beside its peers.

    python benchmarks/completion.py [benchmarks/results/completion.json] [--sets easy,genes] [--seeds 5]
    python benchmarks/completion.py --only exact        # seconds to 1e-6 on exact data, and the paper's descent
    python benchmarks/completion.py --only size --largest

Peers that are not installed are recorded as absent: pip install cmfrec scikit-surprise myfm gcimpute. Part `quality`:
error at entries that no method saw, and seconds with tuning; see completion_data.py for the matrices,
completion_peers.py and completion_packages.py for the methods. Part `exact`: see completion_scale.py; `size`:
completion_size.py; `intervals`: completion_intervals.py; `memory`: completion_memory.py. Cells that the file holds are
left as they are, and within one of `quality` methods that it holds, so a killed run goes on; --again measures them
anew. A method that takes longer than --limit for one matrix has no result there, and is not tried on that set's other
seeds; the slow ones among peers have some times as long (PATIENCE).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import math
import signal
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from completion_data import CASES
from completion_intervals import COVERED, intervals
from completion_memory import memory
from completion_packages import PACKAGES
from completion_peers import METHODS
from completion_scale import exact
from completion_size import size
from completion_task import Absent, Task
from side_by_side import Results, circumstances

import corefold.completion

PATIENCE = {
    "myfm": 5,
    "iterative": 5,
    "gcimpute": 5,
    "knn": 2.5,
}  # times --limit; myFM is the best on ratings
TARGETS = {
    "quality": "held-out error <= softImpute-ALS, scikit-learn's imputers and cmfrec on 4 of 5 real or noisy sets",
    "exact": "seconds to 1e-6 at 4 times the true rank <= 3 x those of ALS told the true rank",
    "condition": "condition 100 solved, and the true rank found",
    "descent": "compressed descent >= 7 times as fast as wide to the same error",
    "size": "10^5 x 10^5 with 10^7 observed: peak under 2 GB, and under 10 minutes on 2 cores",
    "intervals": "coverage of intervals within 2 points of nominal on held-out ratings",
    "reading": "10^7 triples become observed entries within 400 MB beside their own",
    "processes": "memory a process falls as processes are added",
}


def main() -> None:
    given = arguments()
    results = Results(
        given.out,
        ("part", "set", "seed"),
        question="held-out error, seconds and memory of matrix completion with no setting touched, beside peers",
        targets=TARGETS,
    )
    about = versions()
    for part in given.only.split(",") if given.only else PARTS:
        PARTS[part](results, given, about)
    print(table(results))


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "completion.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--only", metavar="PART", help=f"of {', '.join(PARTS)}; more with commas")
    parser.add_argument("--sets", default=",".join(name for name in CASES if name != "tiny"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--limit",
        type=float,
        default=120,
        help="seconds of a method on one matrix, but for PATIENCE; 0: none",
    )
    parser.add_argument("--again", action="store_true", help="measure what the file holds, too")
    parser.add_argument("--rounds", type=int, default=5, help="of the exact part")
    parser.add_argument(
        "--exact", default="d1000,condition100,d10000,descent300", help="see completion_scale.py"
    )
    parser.add_argument("--sizes", default="100000,1000000", help="observed entries")
    parser.add_argument("--dtypes", default="float64,float32", help="of the size part")
    parser.add_argument("--largest", action="store_true", help="10^7 observed entries, too")
    parser.add_argument("--covered", default=",".join(COVERED), help="sets of the intervals part")
    parser.add_argument("--read", type=int, default=10**7, help="triples that the memory part reads")
    parser.add_argument("--shared", type=int, default=10**6, help="observed entries that its processes share")
    parser.add_argument("--processes", default="1,2,4", help="of the memory part")
    return parser.parse_args(line)


def versions() -> dict[str, Any]:
    """Those that `circumstances` knows, those of the peers, and a digest of the code measured."""
    about = circumstances("cpu")
    for package in PACKAGES:
        try:
            about["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about["versions"][package] = None
    files = sorted(Path(corefold.completion.__path__[0]).rglob("*.py"))
    about["source"] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return about


def quality(results: Results, given: argparse.Namespace, about: dict[str, Any]) -> None:
    """All methods on all sets, seed by seed."""
    for method in given.methods.split(","):
        run(method, Task(CASES["tiny"](0), 0), given.limit)  # imports and compiled loops are loaded
    names, wanted = given.sets.split(","), given.methods.split(",")
    late = {} if given.again else too_late(results.cells)
    for name, seed in [(name, seed) for seed in range(given.seeds) for name in names]:
        key = {"part": "quality", "set": name, "seed": seed}
        place = results.find(key)
        methods = {} if place is None else dict(results.cells[place]["methods"])
        missing = [method for method in wanted if given.again or method not in methods]
        if not missing:
            continue
        task = Task(CASES[name](seed), seed)
        for method in missing:
            reason = late.get((name, method))
            limit = given.limit * PATIENCE.get(method, 1)
            found = {"absent": reason} if reason else run(method, task, limit)
            if found.get("late"):
                late[name, method] = found["absent"]
            methods[method] = {"label": METHODS[method][0], **found}
            results.put({**key, **task.case.about(), "methods": dict(methods), **about})
            print(f"{name} {seed} {method}: {_said(found)}", flush=True)


def too_late(cells: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Sets and methods that took too long for one seed, and why others need not be tried."""
    return {
        (cell["set"], method): found["absent"]
        for cell in cells
        if cell["part"] == "quality"
        for method, found in cell["methods"].items()
        if found.get("late")
    }


def run(method: str, task: Task, limit: float) -> dict[str, Any]:
    """Error and seconds of one method on one matrix, or why there are none."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(), within(limit):
            warnings.simplefilter("ignore")  # of gaps that nothing can fill, and of peers' dependencies
            answer = METHODS[method][1](task)
    except Absent as reason:
        return {"absent": str(reason)}
    except ImportError as error:
        return {"absent": f"not installed: {error}"}
    except TimeoutError:
        return {"absent": f"longer than {limit:g} s with its tuning", "late": True}
    seconds = time.perf_counter() - began
    return {**task.case.figures(answer.predicted), "seconds": seconds, **answer.found, "tries": answer.tries}


@contextmanager
def within(limit: float) -> Iterator[None]:
    """TimeoutError after so many seconds."""
    if not limit:
        yield
        return

    def end(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(results: Results) -> str:
    """Medians over seeds: a line for each set, error and seconds for each method, the lowest error starred."""
    lines = []
    cells = [cell for cell in results.cells if cell["part"] == "quality"]
    for name in dict.fromkeys(cell["set"] for cell in cells):
        alike = [cell["methods"] for cell in cells if cell["set"] == name]
        found = {}
        for method in METHODS:
            runs = [cell[method] for cell in alike if "rmse" in cell.get(method, {})]
            if runs:
                times = [run["seconds"] for run in runs if "seconds" in run]
                error = statistics.median(run["rmse"] for run in runs)
                found[method] = error, statistics.median(times) if times else math.nan
        if found:
            best = min(error for error, _ in found.values())
            parts = [f"{m} {e:.4g}{'*' * (e == best)} ({s:.1f} s)" for m, (e, s) in found.items()]
            lines.append(f"{name} [{len(alike)}]: {', '.join(parts)}")
    return "\n".join(lines)


def _said(found: dict[str, Any]) -> str:
    if "absent" in found:
        return f"absent: {found['absent']}"
    return f"rmse {found['rmse']:.4g}, {found['seconds']:.2f} s, rank {found.get('rank', '-')}"


PARTS = {"quality": quality, "exact": exact, "size": size, "intervals": intervals, "memory": memory}


if __name__ == "__main__":
    main()
