"""Write the tables of the pages here, and the table of few rows in the front README, from the result files.

    python -m reproduce.table

The pages are README.md, defaults/README.md and the README.md in the repository's root.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shared.blocks import fill, markdown_table
from benchmarks.shared.results import Cell, read
from reproduce.defaults import screening, search
from reproduce.experiment import AGREES, DIFFERS, NOT_RUN, PARTLY
from reproduce.fewshot.claims import table as few_rows
from reproduce.many.claims import MAIN, of

HERE = Path(__file__).parent
FOLDERS = {  # and their headings in README.md
    "theorem": "The theorem",
    "completion": "Completion by descent",
    "kwon": "Compressed layers of Kwon et al.",
    "defaults": "Deep LoRA's defaults",
    "many": "Deep LoRA beside LoRA",
    "fewshot": "Deep LoRA beside other methods",
    "updates": "Ranks of updates",
    "e2e": "Texts from data",
}
STATUSES = (AGREES, PARTLY, DIFFERS, NOT_RUN)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE, help="with README.md and the folders of claims")
    folder = parser.parse_args().folder
    paths = {name: folder / name / "result.json" for name in FOLDERS}
    results = {name: read(path) for name, path in paths.items() if path.exists()}
    rewrite(folder / "README.md", {"score": score(results)} | {n: table(r) for n, r in results.items()})
    searches = {"screening": screening.table(screening.read()), "search": search.tables(search.read())}
    rewrite(folder / "defaults" / "README.md", searches)
    if "many" in results:
        few = few_rows(of(results["many"]["cells"], MAIN))
        rewrite(folder.parent / "README.md", {"few rows": few})


def rewrite(page: Path, tables: Mapping[str, str]) -> None:
    """Write these tables anew, if the page is there."""
    if page.exists():
        contents = {f"table: {name}": written for name, written in tables.items()}
        page.write_text(fill(page.read_text(encoding="utf-8"), contents), encoding="utf-8")


def score(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The number of claims of each folder by status."""
    rows = []
    for name, result in results.items():
        counts = Counter(row["status"] for row in result["claims"])
        link = f"[{FOLDERS[name]}](#{_anchor(FOLDERS[name])})"
        rows.append([link, *(str(counts[status] or "") for status in STATUSES)])
    return markdown_table(["claims", *STATUSES], "l" + "r" * len(STATUSES), rows)


def table(result: Mapping[str, Any]) -> str:
    """A row a claim, and below them the machines of the runs."""
    header = ["claim", "paper", "ours", "status", "time", "command"]
    rows = [
        [
            row["claim"],
            row["paper"],
            row["ours"] or "",
            f"**{row['status']}**",
            _time(row["seconds"]),
            f"`{row['command']}`",
        ]
        for row in result["claims"]
    ]
    machines = {_machine(cell) for cell in result["cells"].values()}
    return f"{markdown_table(header, 'llllrl', rows)}\n\nMachine: {'; '.join(sorted(machines))}."


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _machine(cell: Cell) -> str:
    machine = cell["machine"]
    name = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread"
    return f"{name}, torch {cell['versions']['torch']}"


if __name__ == "__main__":
    main()
