"""`corefold complete`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corefold.cli.console import console, number, show_table
from corefold.errors import InputError

if TYPE_CHECKING:
    from corefold.cli.complete_data import Matrix
    from corefold.cli.complete_fit import Fit

NAME = "complete"
HELP = """Fill the gaps of a matrix by one of low rank, whose rank is found.

Example: `corefold complete ratings.csv --row user --col item --value rating -o filled.parquet`

RATINGS is a csv, parquet or npz file. With --row, --col and --value each row of it is one entry; without, it is a wide
table with gaps, whose first column of text, if any, holds row labels. An npz file holds a SciPy sparse matrix, arrays
`rows`, `columns` and `values`, or one array with NaN. Entries given twice count once, with their mean.

Without RATINGS: a photograph and gene expressions, with entries removed and completed, in a folder `corefold-complete`.
"""

FOLDER = Path("corefold-complete")


@dataclass(frozen=True)
class Asked:
    """What is to be written and measured."""

    output: Path | None
    top: int | None
    entries: Path | None
    holdout: float
    report: Path | None

    def check(self, force: bool) -> None:
        """Raise InputError for all that is wrong before anything is read."""
        from corefold.cli.complete_out import check_file

        if self.top is not None and self.entries is not None:
            raise InputError("--top and --entries are two results; ask for one at a time")
        if self.output is None:
            if self.top is not None or self.entries is not None:
                raise InputError("-o must name the file for the result")
            if not self.holdout and self.report is None:
                raise InputError(
                    "nothing asked for: give -o for a result, --holdout for the error or --report for a page"
                )
        else:
            check_file(self.output, force)
        if self.report is not None:
            check_file(self.report, force, (".html",))


def run(
    ratings: Annotated[Path | None, typer.Argument(help="csv, parquet or npz file.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write: .csv, .parquet or .npz. Without RATINGS a folder."
        ),
    ] = None,
    row: Annotated[str | None, typer.Option("--row", help="Column of row labels.")] = None,
    col: Annotated[str | None, typer.Option("--col", help="Column of column labels.")] = None,
    value: Annotated[str | None, typer.Option("--value", help="Column of values.")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Write the highest so many predictions of each row, of what is missing."),
    ] = None,
    entries: Annotated[
        Path | None,
        typer.Option(help="Write the entries of this table (row and column labels), with 90 % intervals."),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Share of the observed entries to hold out of everything and measure the error at."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page of pictures into this .html file.")
    ] = None,
    max_rank: Annotated[
        int | None,
        typer.Option(
            help="The rank found is at most this. [default: what the entries can settle, at most 64]"
        ),
    ] = None,
    depth: Annotated[int, typer.Option(help="Layers of the factorization; more prefer lower ranks.")] = 3,
    solver: Annotated[str, typer.Option(help="schatten, descent or als.")] = "schatten",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the start and of what is held out.")
    ] = 0,
    clip: Annotated[
        str,
        typer.Option(
            help="Bounds of what is predicted: LOW,HIGH, none, or auto: those of a scale of ratings."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", "--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """The command."""
    settings = {
        "max_rank": max_rank or "auto",
        "depth": depth,
        "solver": solver,
        "clip": bounds(clip),
        **placed(device),
    }
    if max_rank is not None and max_rank < 1:
        raise InputError(f"--max-rank must be at least 1; got {max_rank}")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"--holdout must lie between 0 and 1; got {holdout}")
    if ratings is None:
        from corefold.cli.complete_demo import demo

        given = {"--row": row, "--col": col, "--value": value, "--top": top, "--entries": entries,
                 "--holdout": holdout, "--report": report}  # fmt: skip
        for name, each in given.items():
            if each is not None:
                raise InputError(f"{name} goes with a file of ratings; none is given")
        demo(output or FOLDER, settings, seed, force)
        return
    asked = Asked(output, top, entries, holdout or 0.0, report)
    asked.check(force)
    from corefold.cli.complete_data import read_matrix

    _complete(read_matrix(ratings, row, col, value), asked, settings, seed)


def bounds(clip: str) -> Any:
    """`--clip` as the estimator takes it.

    Raises:
        InputError: neither auto, none nor two numbers.
    """
    if clip in ("auto", "none"):
        return None if clip == "none" else clip
    try:
        low, high = (float(end) for end in clip.split(","))
    except ValueError as error:
        raise InputError(f"--clip takes LOW,HIGH, none or auto; got {clip!r}") from error
    if not low <= high:
        raise InputError(f"--clip takes LOW,HIGH with LOW at most HIGH; got {clip!r}")
    return low, high


def placed(device: str) -> dict[str, str]:
    """`--device` as the estimator takes it, with a dtype where PyTorch has no float64.

    Raises:
        InputError: PyTorch does not know it, or cannot compute there.
    """
    import torch

    try:
        torch.ones(1, device=device).add(1).cpu()  # the name alone does not tell whether it is there
    except (RuntimeError, AssertionError, ImportError) as error:  # which one, depends on the device
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise InputError(f"--device {device!r} cannot be used here; there is {', '.join(there)}") from error
    on_mps = torch.device(device).type == "mps"
    return {"device": device, **({"dtype": "float32"} if on_mps else {})}


def _complete(matrix: Matrix, asked: Asked, settings: dict[str, Any], seed: int) -> None:
    from corefold.cli.complete_data import read_wanted
    from corefold.cli.complete_fit import fit
    from corefold.cli.complete_out import check_filled

    height, width = matrix.observed.shape
    if len(matrix.observed) == height * width and not asked.holdout:
        raise InputError(
            f"{matrix.source} has no gap to fill; if each row of it is one entry, name its columns with --row, --col "
            "and --value"
        )
    wanted = None if asked.entries is None else read_wanted(asked.entries, matrix)
    if asked.output is not None and wanted is None and asked.top is None:
        check_filled(matrix, asked.output)
    done = fit(matrix.observed, settings, asked.holdout, seed)
    for note in (*matrix.notes, *done.notes):
        console.print(f"note: {note}")
    console.print(f"{len(matrix.observed):,} of {height:,} x {width:,} entries observed; {done.summary()}")
    _show_scores(done)
    if asked.output is not None:
        console.print(f"{_write(matrix, done, asked.output, asked.top, wanted)}: {asked.output}")
    if asked.report is not None:
        from corefold.cli.complete_page import write_report

        shown = {**settings, "seed": seed, "holdout": asked.holdout}
        console.print(f"report: {write_report(asked.report, matrix, done, shown)}")
    if done.stopped:
        raise KeyboardInterrupt


def _write(matrix: Matrix, done: Fit, output: Path, top: int | None, wanted: Any) -> str:
    """Write the result and say what it is."""
    from corefold.cli import complete_out as out

    if wanted is not None:
        table, note = out.single(done.estimator, matrix, *wanted)
        if note is not None:
            console.print(f"note: {note}")
        out.write_rows(table, output)
        return f"{len(table):,} entries"
    if top is not None:
        table = out.ranked(done.estimator, matrix, top)
        out.write_rows(table, output)
        return f"{len(table):,} ranked entries"
    out.write_filled(out.filled(done.estimator, matrix), matrix, output)
    height, width = matrix.observed.shape
    return f"{height * width - len(matrix.observed):,} gaps filled"


def _show_scores(done: Fit) -> None:
    """Print the errors at the entries held out."""
    if done.held is None:
        return
    count = len(next(iter(done.held.residuals.values())))
    show_table(
        [f"{count:,} entries held out", "RMSE", "MAE"],
        [[name, *(number(score) for score in pair)] for name, pair in done.held.scores().items()],
    )
