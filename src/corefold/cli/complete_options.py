"""The options of `corefold complete`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corefold.errors import InputError

if TYPE_CHECKING:
    from corefold.completion.files.reading import FileReading

Ratings = Annotated[
    Path | None,
    typer.Argument(
        help="A csv, tsv, jsonl, json, parquet, feather, xlsx or npz file, compressed or not; - for standard input."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File for the result: .csv, .tsv, .jsonl, .json, .parquet, .xlsx (or .csv.gz and the like) or .npz. "
        "Without RATINGS: a folder.",
    ),
]
Row = Annotated[
    str | None,
    typer.Option(
        "--row", help="Column of row labels. By itself: of a wide table; none if it has no such column."
    ),
]
Col = Annotated[str | None, typer.Option("--col", help="Column of column labels.")]
Value = Annotated[str | None, typer.Option("--value", help="Column of values.")]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", help="Column to leave out. Several: with commas between, or the option again."),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        help="Cell that stands for a gap, such as ? or -999, beside empty ones and NA. Several: as with --drop.",
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(
        help="Decimal mark of numbers: . or , [default: a point, or a comma where all cells fit it]"
    ),
]
Duplicates = Annotated[
    str,
    typer.Option(help="What counts of an entry that occurs more than once: mean, last or first; or error."),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="Encoding of the file. [default: utf-8, or that of which it has the mark at its beginning]"
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Character between the cells of a csv or tsv file. [default: what divides the header]"),
]
Top = Annotated[
    int | None,
    typer.Option(
        min=1, help="Write only this many predictions for each row: the highest of its missing entries."
    ),
]
Entries = Annotated[
    Path | None,
    typer.Option(
        help="Write only the entries that this table lists (row and column labels), with 90 % intervals. A label that "
        "RATINGS does not have is predicted by means."
    ),
]
RowFeatures = Annotated[
    Path | None,
    typer.Option(
        help="What is known of rows: a table with a line each, numbers or words beside the labels. Rows that only "
        "it has are predicted from it."
    ),
]
ColumnFeatures = Annotated[Path | None, typer.Option(help="The same of columns.")]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Write this many filled tables, to NAME-1, NAME-2 and so on, whose gaps are draws instead of predictions, "
        "for multiple imputation.",
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share of the observed entries that the fit never sees and that measure its error and its ranking."
    ),
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
Error = Annotated[
    str,
    typer.Option(
        help="What chooses and is shown: absolute errors; relative ones, over each column's standard deviation; or "
        "auto, relative where columns have several units."
    ),
]
Device = Annotated[str, typer.Option(help="Device that computes: cpu, cuda, cuda:1, mps.")]
Force = Annotated[bool, typer.Option("--force", "--overwrite", help="Replace files that exist.")]


@dataclass(frozen=True)
class CompleteOptions:
    """The options that say what to read, write and measure; None for those that are not set."""

    row: str | None
    col: str | None
    value: str | None
    drop: list[str] | None
    missing: list[str] | None
    decimal: str | None
    duplicates: str | None
    encoding: str | None
    delimiter: str | None
    top: int | None
    entries: Path | None
    row_features: Path | None
    column_features: Path | None
    samples: int | None
    holdout: float | None
    report: Path | None

    def check(self, ratings: Path, output: Path | None, force: bool) -> None:
        """Raise InputError for every fault that shows before anything is read."""
        from corefold.completion.files.reading import SUFFIXES
        from corefold.tables.standard_input import STANDARD_INPUT
        from corefold.tables.writing import check_file

        results = {"--top": self.top, "--entries": self.entries, "--samples": self.samples}
        asked = [name for name, value in results.items() if value is not None]
        if len(asked) > 1:
            raise InputError(f"{asked[0]} and {asked[1]} are two results; ask for one at a time")
        sources = {"RATINGS": ratings, "--entries": self.entries}
        sources |= {"--row-features": self.row_features, "--column-features": self.column_features}
        piped = [name for name, source in sources.items() if str(source) == STANDARD_INPUT]
        if len(piped) > 1:
            raise InputError(
                f"{piped[0]} and {piped[1]} are both -, but standard input holds one table; name a file"
            )
        if output is not None:
            for path in self.outputs(output):
                check_file(path, force, SUFFIXES, "--force")
                self._require_other(path, ratings)
        elif asked:
            raise InputError("-o must name the file for the result")
        elif self.holdout is None and self.report is None:
            raise InputError(
                "nothing asked for: give -o for a result, --holdout for the error or --report for a page"
            )
        if self.report is not None:
            check_file(self.report, force, (".html",), "--force")

    def _require_other(self, output: Path, ratings: Path) -> None:
        """Check that a file of the result is none of those that are read, which a fault would leave lost."""
        for source in (ratings, self.entries, self.row_features, self.column_features):
            if source is not None and source.exists() and output.exists() and output.samefile(source):
                raise InputError(f"-o {output} is a file that is read; choose another name")

    def outputs(self, output: Path) -> list[Path]:
        """The files of the result: of samples NAME-1.csv, NAME-2.csv and so on, where -o names NAME.csv."""
        if self.samples is None:
            return [output]
        from corefold.completion.files.reading import SUFFIXES

        endings = [suffix for suffix in SUFFIXES if output.name.lower().endswith(suffix)]
        stem = output.name[: len(output.name) - max(map(len, endings), default=0)]
        ending = output.name[len(stem) :]
        return [output.with_name(f"{stem}-{number}{ending}") for number in range(1, self.samples + 1)]

    def check_unset(self) -> None:
        """Raise InputError for an option that needs a file of ratings, where there is none."""
        for name, value in vars(self).items():
            if value is not None:
                raise InputError(f"--{name.replace('_', '-')} goes with a file of ratings, which is missing")

    def reading(self) -> FileReading:
        """How the files are read.

        Raises:
            InputError: a decimal mark that is none.
        """
        from corefold.completion.files.reading import FileReading
        from corefold.tables.number_cells import Spelling

        missing = tuple(word for words in self.missing or () for word in words.split(","))
        return FileReading(
            drop=self.drop or (),
            spelling=Spelling(missing, self.decimal),
            duplicates=self.duplicates or "mean",  # type: ignore[arg-type]
            encoding=self.encoding,
            delimiter=self.delimiter,
        )


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
