"""How well and how fast is a matrix completed? DeepMatrixCompletion with its defaults, beside its peers.

    python -m benchmarks.completion.run [benchmarks/completion/results.json] [--sets easy,genes] [--seeds 5]
    python -m benchmarks.completion.run --only exact       # seconds to 1e-6 on exact data, and the paper's descent
    python -m benchmarks.completion.run --only size --largest

Peers that are not installed are recorded as absent: pip install cmfrec scikit-surprise myfm gcimpute. The parts are
`quality`, `exact`, `size`, `intervals` and `memory`, each in the module of its name. Cells that the file holds stay as
they are, and so do the methods within a cell of `quality`, so a killed run continues; --again measures them anew. A
method that takes longer than --limit on one matrix has no result there, and is not tried on that set's other seeds; the
slow ones among the peers have some times as long (PATIENCE).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import corefold.completion
from benchmarks.completion.exact import exact
from benchmarks.completion.intervals import COVERED, intervals
from benchmarks.completion.matrices import CASES
from benchmarks.completion.memory import memory
from benchmarks.completion.methods import METHODS
from benchmarks.completion.other_packages import PACKAGES
from benchmarks.completion.quality import quality, summary
from benchmarks.completion.size import size
from benchmarks.shared.arguments import benchmark_parser
from benchmarks.shared.results import ResultFile, circumstances, version

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
PARTS = {"quality": quality, "exact": exact, "size": size, "intervals": intervals, "memory": memory}


def main() -> None:
    options = arguments()
    results = ResultFile(
        options.out,
        question="held-out error, seconds and memory of matrix completion with no setting touched, beside peers",
        targets=TARGETS,
    )
    about = measured_code()
    for part in options.only.split(",") if options.only else PARTS:
        PARTS[part](results, options, about)
    print(summary(results.cells))


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = benchmark_parser(__doc__, Path(__file__).with_name("results.json"))
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, separated by commas")
    parser.add_argument("--sets", default=",".join(name for name in CASES if name != "tiny"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds of a method on one matrix, times PATIENCE; 0: none"
    )
    parser.add_argument("--again", action="store_true", help="measure the cells that the file holds, too")
    parser.add_argument("--rounds", type=int, default=5, help="of part exact")
    parser.add_argument("--exact", default="d1000,condition100,d10000,descent300", help="cells of part exact")
    parser.add_argument("--sizes", default="100000,1000000", help="observed entries, of part size")
    parser.add_argument("--dtypes", default="float64,float32", help="of part size")
    parser.add_argument("--largest", action="store_true", help="10^7 observed entries in part size, too")
    parser.add_argument("--covered", default=",".join(COVERED), help="sets of part intervals")
    parser.add_argument("--read", type=int, default=10**7, help="triples that part memory reads")
    parser.add_argument("--shared", type=int, default=10**6, help="observed entries that its processes share")
    parser.add_argument("--processes", default="1,2,4", help="of part memory")
    return parser.parse_args(line)


def measured_code() -> dict[str, Any]:
    """Machine and versions, with those of the peers, and a digest of the code that is measured."""
    about = circumstances("cpu")
    about["versions"] |= {package: version(package) for package in PACKAGES}
    files = sorted(Path(corefold.completion.__path__[0]).rglob("*.py"))
    about["source"] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return about


if __name__ == "__main__":
    main()
