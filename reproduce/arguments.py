"""Options that several experiments have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def experiment_parser(doc: str | None, out: Path) -> argparse.ArgumentParser:
    """A parser with the folder of the results."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out, help="folder of result.json and figure.svg")
    return parser


def add_parts(parser: argparse.ArgumentParser, parts: Sequence[str]) -> None:
    """The option --only, which chooses some of the parts."""
    text = f"of {', '.join(parts)}, separated by commas"
    parser.add_argument("--only", type=_chosen(parts), default=[*parts], metavar="PARTS", help=text)


def _chosen(parts: Sequence[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(parts)):
            raise argparse.ArgumentTypeError(f"takes {', '.join(parts)}; got {', '.join(unknown)}")
        return names

    return chosen


def add_data(parser: argparse.ArgumentParser, model: str) -> None:
    """The options of experiments that train a pretrained model on tables."""
    parser.add_argument("--model", required=True, help=model)
    parser.add_argument("--data", default="../shared/data", help="a folder a set, with train.csv and dev.csv")
