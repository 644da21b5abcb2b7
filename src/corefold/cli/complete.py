"""`corefold complete`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corefold.cli.complete_options import (
    Clip,
    Col,
    ColumnFeatures,
    CompleteOptions,
    Decimal,
    Delimiter,
    Depth,
    Device,
    Drop,
    Duplicates,
    Encoding,
    Entries,
    Error,
    Force,
    Holdout,
    MaxRank,
    Missing,
    Output,
    Ratings,
    Report,
    Row,
    RowFeatures,
    Samples,
    Seed,
    SolverName,
    Top,
    Value,
    parse_bounds,
    parse_device,
)
from corefold.cli.console import console, number, show_table
from corefold.cli.step_progress import step_progress
from corefold.errors import InputError

if TYPE_CHECKING:
    from corefold.completion.examples import CompletedExample
    from corefold.completion.files.labelled import LabelledMatrix
    from corefold.completion.holdout import MeasuredFit
    from corefold.completion.observed import Observed
    from corefold.completion.ranking_scores import RankingScores

NAME = "complete"
HELP = """Fill the gaps of a matrix with a matrix of low rank; the rank is found from the entries.

Example: `corefold complete ratings.csv --row user --col item --value rating -o filled.parquet`

RATINGS is a table: csv, tsv, jsonl, parquet, xlsx and others, compressed or not. With --row, --col and --value each of
its rows is one entry. Without them it is a wide table with gaps, of which a column of words, of keys or of different
whole numbers holds the row labels; a note says which. An npz file holds a SciPy sparse matrix, arrays `rows`, `columns`
and `values`, or one array with NaN. Labels stay as they are written.

Without RATINGS the command removes entries of a photograph and of a table of gene expressions, completes them, and
writes the results into a folder `corefold-complete`.
"""

EXAMPLES_FOLDER = Path("corefold-complete")
MIN_DIFFERENCE = 1e-3  # share of an error from which on another is behind it
PICTURE_INCHES = 12.0  # width of the examples' pictures


def run(
    ratings: Ratings = None,
    output: Output = None,
    row: Row = None,
    col: Col = None,
    value: Value = None,
    drop: Drop = None,
    missing: Missing = None,
    decimal: Decimal = None,
    duplicates: Duplicates = "mean",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    top: Top = None,
    entries: Entries = None,
    row_features: RowFeatures = None,
    column_features: ColumnFeatures = None,
    samples: Samples = None,
    holdout: Holdout = None,
    report: Report = None,
    max_rank: MaxRank = None,
    depth: Depth = 3,
    solver: SolverName = "schatten",
    seed: Seed = 0,
    clip: Clip = "auto",
    error: Error = "auto",
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """The command."""
    settings = {
        "max_rank": max_rank or "auto",
        "depth": depth,
        "solver": solver,
        "clip": parse_bounds(clip),
        "error": error,
        **parse_device(device),
    }
    if max_rank is not None and max_rank < 1:
        raise InputError(f"--max-rank must be at least 1; got {max_rank}")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"--holdout must lie between 0 and 1; got {holdout}")
    chosen = None if duplicates == "mean" else duplicates
    reading = (drop or None, missing or None, decimal, chosen, encoding, delimiter)
    options = CompleteOptions(
        row, col, value, *reading, top, entries, row_features, column_features, samples, holdout, report
    )
    if ratings is None:
        options.check_unset()
        _complete_examples(output or EXAMPLES_FOLDER, settings, seed, force)
    else:
        options.check(ratings, output, force)
        _complete_file(ratings, output, options, settings, seed)


def _complete_file(
    path: Path, output: Path | None, options: CompleteOptions, settings: dict[str, Any], seed: int
) -> None:
    from corefold.completion.distributed import RowPartition
    from corefold.completion.files.features import with_features
    from corefold.completion.files.labelled import require_different_values
    from corefold.completion.files.reading import read_matrix, read_places
    from corefold.completion.files.writing import check_filled_fits
    from corefold.completion.holdout import fit_and_measure
    from corefold.completion.notes import units_note
    from corefold.completion.units import ColumnSpread

    reading = options.reading()
    matrix = read_matrix(path, options.row, options.col, options.value, reading)
    features = {}
    for side, file in (("row", options.row_features), ("column", options.column_features)):
        if file is not None:
            matrix, features[f"{side}_features"] = with_features(matrix, side, file, reading)
    height, width = matrix.observed.shape
    if len(matrix.observed) == height * width and options.holdout is None:
        raise InputError(
            f"{matrix.source} has no gap to fill; if each row of it is one entry, name its columns with --row, --col "
            "and --value"
        )
    require_different_values(matrix)
    places = None if options.entries is None else read_places(options.entries, matrix, reading)
    if output is not None and places is None and options.top is None:
        check_filled_fits(matrix, output, options.samples or 1)
    with step_progress() as advance:
        fit = fit_and_measure(matrix.observed, settings, options.holdout or 0.0, seed, [advance], features)
    guess = (
        units_note(ColumnSpread.of(matrix.observed, RowPartition())) if settings["error"] == "auto" else None
    )
    for note in (*matrix.notes, *(places.notes if places else ()), *([guess] if guess else ()), *fit.notes):
        console.print(f"note: {note}")
    console.print(f"{len(matrix.observed):,} of {height:,} x {width:,} entries observed; {fit.summary()}")
    _show_scores(fit, matrix.observed, options, seed)
    if output is not None:
        if options.samples is not None:
            console.print(_write_samples(matrix, fit, options.outputs(output), seed))
        else:
            console.print(f"{_write_result(matrix, fit, output, options.top, places)}: {output}")
    if options.report is not None:
        shown = {**settings, "seed": seed, "holdout": options.holdout or 0.0}
        console.print(f"report: {_write_report(options.report, matrix, fit, shown)}")
    if fit.interrupted:
        raise KeyboardInterrupt


def _show_scores(fit: MeasuredFit, observed: Observed, options: CompleteOptions, seed: int) -> None:
    """Print the errors at the entries held out, and how well they are put in order."""
    from corefold.completion.notes import behind_note
    from corefold.completion.ranking_scores import ranking_scores
    from corefold.completion.split import split

    if fit.errors is None:
        note = behind_note(fit.estimator.model_.calibration, observed, fit.estimator.error)
        if note is not None:
            console.print(f"note: {note}")
        return
    errors, over = fit.errors.scores(), "" if fit.errors.deviations is None else " over deviation"
    show_table(
        [f"{len(fit.errors):,} entries held out", *(f"{name}{over}" for name in ("RMSE", "MAE"))],
        [[name, *map(number, pair)] for name, pair in errors.items()],
    )
    fitted, held = split(observed, options.holdout or 0.0, seed)
    values = held.values.numpy()
    predicted = {name: values - residual for name, residual in fit.errors.residuals.items()}
    _show_ranking(ranking_scores(predicted, fitted, held, options.top))
    (name, (best, _)), (ours, _) = min(errors.items(), key=lambda each: each[1][0]), errors["completed"]
    if ours > best * (1 + MIN_DIFFERENCE):
        console.print(
            f"note: the root mean square error is behind that of {name}: {ours:.4g}, not {best:.4g}"
        )


def _show_ranking(ranking: RankingScores | None) -> None:
    """Print how well the held-out entries of rows are put in order, where rows have enough of them."""
    if ranking is None:
        return
    names = [f"precision@{ranking.k}", f"nDCG@{ranking.k}"]
    rows = [
        [name, *(number(pair[place]) for pair in ranking.scores.values())] for place, name in enumerate(names)
    ]
    show_table([f"order in {ranking.rows:,} rows", *ranking.scores], rows)
    console.print(
        f"of the held-out entries in rows with more than {ranking.k}; relevant is above {number(ranking.relevant)}, "
        "the mean of the fitted ones"
    )


def _write_result(
    matrix: LabelledMatrix, fit: MeasuredFit, output: Path, top: int | None, places: Any
) -> str:
    """Write the result and say what it is."""
    from corefold.completion.files import results, writing

    if places is not None:
        table, reason = results.single_entries(fit.estimator, matrix, places)
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


def _write_samples(matrix: LabelledMatrix, fit: MeasuredFit, paths: list[Path], seed: int) -> str:
    """Write a filled table for each draw and say what they are.

    Raises:
        InputError: too little was held out to know how large errors are.
    """
    import numpy as np

    from corefold.completion.files.writing import write_filled

    try:
        filled = np.asarray(fit.estimator.sample(len(paths), random_state=seed))
    except (ValueError, MemoryError) as error:
        raise InputError(f"--samples: {error}") from error
    observed = matrix.observed  # of which --holdout keeps a part from the fit
    filled[:, observed.row_of().numpy(), observed.columns.numpy()] = observed.values.numpy()
    for path, sample in zip(paths, filled, strict=True):
        write_filled(sample, matrix, path)
    return f"{len(paths)} samples of the filled table: {paths[0]}" + (f" to {paths[-1]}" * (len(paths) > 1))


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
