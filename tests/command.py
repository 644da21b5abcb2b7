"""`corefold` as a user calls it, in this process (fast) or in one of its own (to kill it)."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from once import filled, folder_of_run

POSITIVE = [
    "a joy from start to end",
    "warm , funny and wise",
    "the best film of the year",
    "moving and beautiful",
]
NEGATIVE = [
    "dull and far too long",
    "a lifeless , clumsy mess",
    "the worst script in years",
    "tedious and false",
]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def corefold(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    from corefold.cli.main import main

    with pytest.MonkeyPatch.context() as patch, Captured() as captured:
        patch.setattr(sys, "argv", ["corefold", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, captured.out, captured.err)


def refused(outcome: Outcome, *words: str) -> None:
    """The command said in one line, which holds these words, why it stopped."""
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err + outcome.out
    lines = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(lines) == 1, outcome.err
    for word in words:
        assert word in lines[0], lines[0]


class Captured:
    """Everything printed, through rich's consoles too."""

    def __enter__(self) -> Captured:
        from corefold.cli import console

        self._patch = pytest.MonkeyPatch()
        self._out, self._err = io.StringIO(), io.StringIO()
        self._patch.setattr(sys, "stdout", self._out)
        self._patch.setattr(sys, "stderr", self._err)
        self._patch.setattr(console.console, "width", 200)
        return self

    def __exit__(self, *stop: object) -> None:
        self.out, self.err = self._out.getvalue(), self._err.getvalue()
        self._patch.undo()


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "corefold.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """A small csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    """A small jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_reviews(path: Path, copies: int = 4) -> Path:
    """Eight short reviews, some copies of each with another ending, labelled neg and pos."""
    texts = [(text, label) for label, part in (("neg", NEGATIVE), ("pos", POSITIVE)) for text in part]
    rows = [(f"{text} ({copy})", label) for copy in range(copies) for text, label in texts]
    return write_csv(path, ["text", "label"], rows)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn as always but not written: that takes a fifth of a short run, and tests/report looks at it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    def print_svg(self: object, out: io.StringIO, **options: object) -> None:
        out.write("<svg ></svg>")

    monkeypatch.setattr(FigureCanvasSVG, "print_svg", print_svg)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = filled(folder_of_run(tmp_path_factory, "data"), lambda work: write_reviews(work / "reviews.csv"))
    return folder / "reviews.csv"


@pytest.fixture(scope="session")
def two_layers_dir(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's first two layers of six: they learn a few short texts in a third of the time."""
    from transformers import AutoModel, AutoTokenizer

    def cut(folder: Path) -> None:
        AutoModel.from_pretrained(minilm_dir, num_hidden_layers=2).save_pretrained(folder)
        AutoTokenizer.from_pretrained(minilm_dir).save_pretrained(folder)

    return filled(folder_of_run(tmp_path_factory, "two-layers"), cut)


@pytest.fixture(scope="session")
def finished(minilm_dir: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Tests of several files read it at once, so none may write into it.

    Its bases are narrower than by default, because wide ones of real layers take as long as all other things together.
    """

    def finetune(out: Path) -> None:
        outcome = corefold(
            "finetune", "--model", minilm_dir, "--train", reviews, "--eval", reviews, "--text", "text",
            "--label", "label", "--steps", 20, "--batch-size", 8, "--width", 16, "-o", out,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err

    return filled(folder_of_run(tmp_path_factory, "finished"), finetune)
