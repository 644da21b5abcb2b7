"""Write the tables of the pages here, and that of few rows in the front README, from the result files.

python -m reproduce.table
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.common import AGREES, DIFFERS, NOT_RUN, PARTLY
from reproduce.defaults import searched
from reproduce.defaults.tried import read
from reproduce.defaults.tried import table as tried
from reproduce.fewshot.shown import table as few_rows
from reproduce.many.shown import MAIN, of

HERE = Path(__file__).parent
FOLDERS = {  # and their headings
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE, help="with README.md and the folders of claims")
    given = parser.parse_args()
    results = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in FOLDERS
        if (path := given.folder / name / "result.json").exists()
    }
    rewrite(
        given.folder / "README.md",
        {"score": score(results)} | {name: table(result) for name, result in results.items()},
    )
    rewrite(
        given.folder / "defaults" / "README.md",
        {"tried": tried(read()), "searched": searched.tables(searched.read())},
    )
    if "many" in results:
        few = few_rows(of(results["many"]["cells"], MAIN))
        rewrite(given.folder.parent / "README.md", {"few rows": few})


def rewrite(page: Path, tables: Mapping[str, str]) -> None:
    """Write these tables anew, if the page is there."""
    if page.exists():
        text = page.read_text(encoding="utf-8")
        for name, written in tables.items():
            text = fill(text, name, written)
        page.write_text(text, encoding="utf-8")


def fill(text: str, name: str, written: str) -> str:
    """The text with the table of that name written anew."""
    block = re.compile(rf"<!-- table: {name} -->\n(?:.*?)<!-- end -->", re.DOTALL)
    return block.sub(lambda _: f"<!-- table: {name} -->\n{written}\n<!-- end -->", text)


def score(results: Mapping[str, Mapping[str, Any]]) -> str:
    """How many claims of each folder came to what."""
    lines = ["| claims | " + " | ".join(STATUSES) + " |", "| --- |" + " ---: |" * len(STATUSES)]
    for name, result in results.items():
        found = Counter(row["status"] for row in result["claims"])
        counts = [str(found[status] or "") for status in STATUSES]
        lines.append(f"| [{FOLDERS[name]}](#{_anchor(FOLDERS[name])}) | {' | '.join(counts)} |")
    return "\n".join(lines)


def table(result: Mapping[str, Any]) -> str:
    """A row a claim, and below it the machines that the runs were on."""
    lines = [
        "| claim | paper | ours | status | time | command |",
        "| --- | --- | --- | --- | ---: | --- |",
    ]
    for row in result["claims"]:
        status, command = f"**{row['status']}**", f"`{row['command']}`"
        told = [row["claim"], row["paper"], row["ours"] or "", status, _time(row["seconds"]), command]
        lines.append("| " + " | ".join(told) + " |")
    machines = {_machine(cell) for cell in result["cells"].values()}
    return "\n".join([*lines, "", f"Machine: {'; '.join(sorted(machines))}."])


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


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
