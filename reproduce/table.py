"""Write the table of claims here, and that of few rows in the front README, from the result files.

python -m reproduce.table
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.defaults import searched
from reproduce.defaults.tried import read
from reproduce.defaults.tried import table as tried
from reproduce.fewshot.shown import table as few_rows
from reproduce.many.shown import MAIN, of

HERE = Path(__file__).parent
FOLDERS = ("theorem", "completion", "kwon", "defaults", "many", "fewshot", "updates", "e2e")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE, help="with README.md and the folders of claims")
    given = parser.parse_args()
    readme = given.folder / "README.md"
    results = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in FOLDERS
        if (path := given.folder / name / "result.json").exists()
    }
    text = fill(readme.read_text(encoding="utf-8"), "claims", table(results))
    text = fill(text, "tried", tried(read()))
    readme.write_text(fill(text, "searched", searched.tables(searched.read())), encoding="utf-8")
    front = given.folder.parent / "README.md"
    if "many" in results and front.exists():
        few = few_rows(of(results["many"]["cells"], MAIN))
        front.write_text(fill(front.read_text(encoding="utf-8"), "few rows", few), encoding="utf-8")


def fill(text: str, name: str, written: str) -> str:
    """The text with the table of that name written anew."""
    block = re.compile(rf"<!-- table: {name} -->\n(?:.*?)<!-- end -->", re.DOTALL)
    return block.sub(lambda _: f"<!-- table: {name} -->\n{written}\n<!-- end -->", text)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a claim, and below it the machines that the runs were on."""
    lines = [
        "| claim | paper | ours | status | time | command |",
        "| --- | --- | --- | --- | ---: | --- |",
    ]
    for name, result in results.items():
        for row in result["claims"]:
            told = [
                f"[{row['claim']}]({name}/)",
                row["paper"],
                row["ours"] or "",
                f"**{row['status']}**",
                _time(row["seconds"]),
                f"`{row['command']}`",
            ]
            lines.append("| " + " | ".join(told) + " |")
    machines = {_machine(cell) for result in results.values() for cell in result["cells"].values()}
    return "\n".join([*lines, "", f"Machine: {'; '.join(sorted(machines))}."])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _machine(cell: Mapping[str, Any]) -> str:
    machine = cell["machine"]
    name = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread"
    return f"{name}, torch {cell['versions']['torch']}"


if __name__ == "__main__":
    main()
