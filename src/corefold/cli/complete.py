"""`corefold complete`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corefold.cli.console import console, number, show_table
from corefold.cli.step_progress import step_progress
from corefold.errors import InputError

if TYPE_CHECKING:
    from corefold.completion.examples import CompletedExample
    from corefold.completion.files.labelled import LabelledMatrix
    from corefold.completion.holdout import MeasuredFit

NAME = "complete"
HELP = """Fill the gaps of a matrix with a matrix of low rank; the rank is found from the entries.

Example: `corefold complete ratings.csv --row user --col item --value rating -o filled.parquet`

RATINGS is a csv, parquet or npz file. With --row, --col and --value each of its rows is one entry. Without them it is a
wide table with gaps; a first column of text holds the row labels. An npz file holds a SciPy sparse matrix, arrays
`rows`, `columns` and `values`, or one array with NaN. An entry that occurs twice counts once, with its mean.

Without RATINGS the command removes entries of a photograph and of a table of gene expressions, completes them, and
writes the results into a folder `corefold-complete`.
"""

EXAMPLES_FOLDER = Path("corefold-complete")
PICTURE_INCHES = 12.0  # width of the examples' pictures

Ratings = Annotated[Path | None, typer.Argument(help="A csv, parquet or npz file.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File for the result: .csv, .parquet or .npz. Without RATINGS: a folder."
    ),
]
Row = Annotated[str | None, typer.Option("--row", help="Column of row labels.")]
Col = Annotated[str | None, typer.Option("--col", help="Column of column labels.")]
Value = Annotated[str | None, typer.Option("--value", help="Column of values.")]
Top = Annotated[
    int | None,
    typer.Option(
        min=1, help="Write only this many predictions for each row: the highest of its missing entries."
    ),
]
Entries = Annotated[
    Path | None,
    typer.Option(
        help="Write only the entries that this table lists (row and column labels), with 90 % intervals."
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(help="Share of the observed entries that the fit never sees and that measure its error."),
]
Report = Annotated[Path | None, typer.Option(help="Write a page with pictures to this .html file.")]
MaxRank = Annotated[
    int | None,
    typer.Option(
        help="Upper bound of the rank. [default: as many directions as the entries can determine, at most 64]"
    ),
]
Depth = Annotated[int, typer.Option(help="Layers of the factorization. More layers prefer lower ranks.")]
SolverName = Annotated[str, typer.Option(help="Solver: schatten, descent or als.")]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, help="Seed of the start and of the entries that are held out."),
]
Clip = Annotated[
    str,
    typer.Option(help="Bounds of the predictions: LOW,HIGH; none; or auto, the ends of a rating scale."),
]
Device = Annotated[str, typer.Option(help="Device that computes: cpu, cuda, cuda:1, mps.")]
Force = Annotated[bool, typer.Option("--force", "--overwrite", help="Replace files that exist.")]


@dataclass(frozen=True)
class CompleteOptions:
    """The options that say what to read, write and measure; None for those that are not set."""

    row: str | None
    col: str | None
    value: str | None
    top: int | None
    entries: Path | None
    holdout: float | None
    report: Path | None

    def check(self, output: Path | None, force: bool) -> None:
        """Raise InputError for every fault that shows before anything is read."""
        from corefold.completion.files.reading import SUFFIXES
        from corefold.tables.writing import check_file

        if self.top is not None and self.entries is not None:
            raise InputError("--top and --entries are two results; ask for one at a time")
        if output is not None:
            check_file(output, force, SUFFIXES, "--force")
        elif self.top is not None or self.entries is not None:
            raise InputError("-o must name the file for the result")
        elif self.holdout is None and self.report is None:
            raise InputError(
                "nothing asked for: give -o for a result, --holdout for the error or --report for a page"
            )
        if self.report is not None:
            check_file(self.report, force, (".html",), "--force")

    def check_unset(self) -> None:
        """Raise InputError for an option that needs a file of ratings, where there is none."""
        for name, value in vars(self).items():
            if value is not None:
                raise InputError(f"--{name} goes with a file of ratings, which is missing")


def run(
    ratings: Ratings = None,
    output: Output = None,
    row: Row = None,
    col: Col = None,
    value: Value = None,
    top: Top = None,
    entries: Entries = None,
    holdout: Holdout = None,
    report: Report = None,
    max_rank: MaxRank = None,
    depth: Depth = 3,
    solver: SolverName = "schatten",
    seed: Seed = 0,
    clip: Clip = "auto",
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """The command."""
    settings = {
        "max_rank": max_rank or "auto",
        "depth": depth,
        "solver": solver,
        "clip": parse_bounds(clip),
        **parse_device(device),
    }
    if max_rank is not None and max_rank < 1:
        raise InputError(f"--max-rank must be at least 1; got {max_rank}")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"--holdout must lie between 0 and 1; got {holdout}")
    options = CompleteOptions(row, col, value, top, entries, holdout, report)
    if ratings is None:
        options.check_unset()
        _complete_examples(output or EXAMPLES_FOLDER, settings, seed, force)
    else:
        options.check(output, force)
        _complete_file(ratings, output, options, settings, seed)


def parse_bounds(clip: str) -> Any:
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


def parse_device(device: str) -> dict[str, str]:
    """`--device` as the estimator takes it, with a dtype where PyTorch has no float64.

    Raises:
        InputError: PyTorch does not know it, or cannot compute there.
    """
    import torch

    try:
        torch.ones(1, device=device).add(1).cpu()  # a name that is known may still stand for no device here
    except (RuntimeError, AssertionError, ImportError) as error:  # each kind of device has its own error
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise InputError(f"--device {device!r} cannot be used here; there is {', '.join(there)}") from error
    on_mps = torch.device(device).type == "mps"
    return {"device": device, **({"dtype": "float32"} if on_mps else {})}


def _complete_file(
    path: Path, output: Path | None, options: CompleteOptions, settings: dict[str, Any], seed: int
) -> None:
    from corefold.completion.files.reading import read_matrix, read_places
    from corefold.completion.files.writing import check_filled_fits
    from corefold.completion.holdout import fit_and_measure

    matrix = read_matrix(path, options.row, options.col, options.value)
    height, width = matrix.observed.shape
    if len(matrix.observed) == height * width and options.holdout is None:
        raise InputError(
            f"{matrix.source} has no gap to fill; if each row of it is one entry, name its columns with --row, --col "
            "and --value"
        )
    places = None if options.entries is None else read_places(options.entries, matrix)
    if output is not None and places is None and options.top is None:
        check_filled_fits(matrix, output)
    with step_progress() as advance:
        fit = fit_and_measure(matrix.observed, settings, options.holdout or 0.0, seed, [advance])
    for note in (*matrix.notes, *fit.notes):
        console.print(f"note: {note}")
    console.print(f"{len(matrix.observed):,} of {height:,} x {width:,} entries observed; {fit.summary()}")
    _show_scores(fit)
    if output is not None:
        console.print(f"{_write_result(matrix, fit, output, options.top, places)}: {output}")
    if options.report is not None:
        shown = {**settings, "seed": seed, "holdout": options.holdout or 0.0}
        console.print(f"report: {_write_report(options.report, matrix, fit, shown)}")
    if fit.interrupted:
        raise KeyboardInterrupt


def _show_scores(fit: MeasuredFit) -> None:
    """Print the errors at the entries held out."""
    if fit.errors is not None:
        show_table(
            [f"{len(fit.errors):,} entries held out", "RMSE", "MAE"],
            [[name, *map(number, pair)] for name, pair in fit.errors.scores().items()],
        )


def _write_result(
    matrix: LabelledMatrix, fit: MeasuredFit, output: Path, top: int | None, places: Any
) -> str:
    """Write the result and say what it is."""
    from corefold.completion.files import results, writing

    if places is not None:
        table, reason = results.single_entries(fit.estimator, matrix, *places)
        if reason is not None:
            console.print(f"note: {reason}")
        writing.write_entries(table, output)
        return f"{len(table):,} entries"
    if top is not None:
        table = results.ranked_entries(fit.estimator, matrix, top)
        writing.write_entries(table, output)
        return f"{len(table):,} ranked entries"
    writing.write_filled(results.filled_matrix(fit.estimator, matrix.observed), matrix, output)
    height, width = matrix.observed.shape
    return f"{height * width - len(matrix.observed):,} gaps filled"


def _write_report(path: Path, matrix: LabelledMatrix, fit: MeasuredFit, settings: dict[str, Any]) -> Path:
    from corefold.report import write_page
    from corefold.report.completion import completion_report, completion_sections

    content = completion_report(fit, matrix.observed, matrix.source, settings, matrix.notes)
    return write_page(path, f"corefold: {Path(matrix.source).name} completed", completion_sections(content))


def _complete_examples(folder: Path, settings: dict[str, Any], seed: int, force: bool) -> None:
    """Complete matrices that are known in full, and write pictures, a page and scores."""
    from corefold.completion.examples import complete_example, examples
    from corefold.report import Section, Table, write_page
    from corefold.report.completion import completion_report, completion_sections
    from corefold.report.completion_plots import save_side_by_side
    from corefold.tables.writing import check_folder

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; without RATINGS -o names a folder")
    check_folder(folder, force, "--force")
    known, completed = examples(), []
    for note in filter(None, (example.note for example in known)):
        console.print(f"note: {note}")
    for example in known:
        with step_progress() as advance:
            completed.append(complete_example(example, settings, seed, [advance]))
        size = " x ".join(map(str, example.X.shape))
        console.print(f"{example.name}, {size}: {example.source}; {completed[-1].fit.summary()}")
    header, rows = _scores_of_examples(completed)
    console.print()
    show_table(header, rows, f"Root mean square error at the removed entries, seed {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    sections = [Section("Error at the removed entries", table=Table(header, rows))]
    for each in completed:
        shown = {**settings, "seed": seed}
        content = completion_report(
            each.fit, each.observed, each.example.source, shown, pictures=each.pictures, caption=each.caption
        )
        sections += completion_sections(content, each.example.name)
        picture = save_side_by_side(each.pictures, folder / f"{each.example.name}.png", PICTURE_INCHES)
        console.print(f"picture: {picture}")
    page = write_page(folder / "report.html", "corefold complete: entries removed and completed", sections)
    console.print(f"report: {page}")


def _scores_of_examples(completed: list[CompletedExample]) -> tuple[list[str], list[list[str]]]:
    header = ["", "removed", "rank", "completed", "biases alone", "column means"]
    rows = []
    for each in completed:
        scores = (
            [] if each.fit.errors is None else [number(rmse) for rmse, _ in each.fit.errors.scores().values()]
        )
        removed, rank = f"{each.example.removed:.0%}", str(each.fit.estimator.rank_)
        rows.append([each.example.name, removed, rank, *scores])
    return header, rows
