"""The claims about few rows, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.axes import Axes

from benchmarks.shared.blocks import markdown_table
from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.compare.statistics import paired
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, paper

COMMAND = "python -m reproduce.fewshot.run"
OURS, TUNED = "deep-lora", "lora, tuned"
FIXED = ("lora, 2e-4", "lora, 1e-3")
FLOORS = ("untouched", "head")
# Runs at one default and around it; Deep LoRA's rate there is 0.05 / root(2 x 25).
SQUARE = "deep-lora, square"
RANKS: dict[str, dict[float, str]] = {
    "deep-lora": {2: OURS, **{r: f"deep-lora, rank {r}" for r in (4, 8, 16, 64)}},
    "square core": {**{r: f"{SQUARE}, rank {r}" for r in (2, 8, 16)}, 32: SQUARE, 64: f"{SQUARE}, rank 64"},
    "lora": {2: "lora, 1e-3, rank 2", 8: FIXED[1], **{r: f"lora, 1e-3, rank {r}" for r in (32, 64)}},
}
RATES: dict[str, dict[float, str]] = {
    "deep-lora": {0.0022: "deep-lora, 0.0022", 0.00707: OURS, 0.022: "deep-lora, 0.022"},
    "square core": {0.001: f"{SQUARE}, 0.001", 0.003125: SQUARE, 0.01: f"{SQUARE}, 0.01"},
    "lora": {0.0003: "lora, 0.0003", 0.001: FIXED[1], 0.003: "lora, 0.003"},
}
AUTHORS_ROWS = 1024  # in most of their tables
FEW_ROWS = 64  # up to here Deep LoRA should be ahead, beyond it level
LEVEL = 0.005  # the largest loss of score that counts as level
MIN_SEEDS = 2  # a single seed has no interval
PEERS = ("lora-ga", "lora-one", "eva", "pissa", "dora", "adalora", "vera", "full")
NAMED = {
    "stsb": "sentence pairs",
    "trec": "question types",
    "sst2": "film sentiment",
    "reviews": "film reviews",
}
COLORS = {OURS: BLUE, TUNED: VERMILION, "untouched": GREEN, "head": GREEN, FIXED[0]: GREY, FIXED[1]: PURPLE}


def claims(cells: Cells) -> list[Cell]:
    """The targets that `reproduce/many` measures on more seeds, and comparisons with other methods."""
    published = paper(__file__)
    earlier = {
        "Ahead of the method as its authors run it, `DeepLoraConfig.paper()` at lr 1e-2": "deep-lora, paper",
        "Ahead of a square core of width 32 and depth 3, an earlier default": SQUARE,
    }
    authors = {
        "Ahead of LoRA as the authors run it but for head and schedule, lr 1e-4": "lora, authors",
        "Ahead of a narrow square core in random bases, at the authors' lr 1e-4": "deep-lora, narrow random",
        "Not behind the full-width model, the authors' winner, at their lr 1e-4": "deep-lora, full width",
    }
    few, many = (
        {key: cell for key, cell in cells.items() if (cell["samples"] == AUTHORS_ROWS) == so}
        for so in (False, True)
    )
    runs = " ".join(f"'{run}'" for run in (OURS, *authors.values()))
    like_authors = f"{COMMAND} --samples {AUTHORS_ROWS} --runs {runs}"
    every = f"{COMMAND} --sets trec --samples {FEW_ROWS} --runs all"
    return [
        *against_tuned(cells, published, COMMAND, f"{COMMAND} --samples {{}}"),
        *(against(text, published["tuned"], few, run, COMMAND) for text, run in (earlier | authors).items()),
        *(
            against(f"{text}: {AUTHORS_ROWS:,} rows", published["tuned"], many, run, like_authors)
            for text, run in authors.items()
        ),
        _peers(cells, published["peers"]),
        flat("Flat in the rank", published["rank"], cells, RANKS, FEW_ROWS, every),
        flat("Flat over a decade of learning rates", published["rate"], cells, RATES, FEW_ROWS, every),
    ]


def against_tuned(cells: Cells, published: Mapping[str, str], command: str, more_command: str) -> list[Cell]:
    """One claim about few rows, and one about each larger number of rows."""
    few = {key: cell for key, cell in cells.items() if cell["samples"] <= FEW_ROWS}
    more = {
        rows: {key: cell for key, cell in cells.items() if cell["samples"] == rows}
        for rows in (256, AUTHORS_ROWS)
    }
    return [
        against(
            f"Nothing tuned, on up to {FEW_ROWS} rows, against LoRA of rank 8 with its rate chosen of three on a fifth "
            "of the rows: ahead on average, behind nowhere",
            published["tuned"], few, TUNED, command,
        ),
        *(
            against(
                f"The same on {rows:,} rows: within {LEVEL} on average, behind nowhere",
                published["few"], own, TUNED, more_command.format(rows), -LEVEL,
            )
            for rows, own in more.items()
        ),
    ]  # fmt: skip


def against_defaults(cells: Cells, published: Mapping[str, str], command: str) -> list[Cell]:
    """One claim about each fixed rate of LoRA, and one about each floor on few rows."""
    few = {key: cell for key, cell in cells.items() if cell["samples"] <= FEW_ROWS}
    shared = [place for place in places(cells) if all(of(cells, run, *place) for run in FIXED)]
    best = max(FIXED, key=lambda run: sum(fmean(scores(of(cells, run, *place)).values()) for place in shared))
    return [
        *(
            against(f"Default against default: {run} at rank 8" + (", the better of the two" if run == best else ""),
                    published["default"], cells, run, command)
            for run in FIXED
        ),
        *(against(f"Not below {'the untouched model' if run == 'untouched' else 'a head alone'}",
                  published["untouched"], few, run, command) for run in FLOORS),
    ]  # fmt: skip


def against(text: str, published: str, cells: Cells, other: str, command: str, least: float = 0.0) -> Cell:
    """Deep LoRA less another run: is it more than `least` on average, and no interval wholly below zero?"""
    parts, used, differences = [], [], []
    for name, samples in places(cells):
        mine, theirs = of(cells, OURS, name, samples), of(cells, other, name, samples)
        pair = paired(scores(mine), scores(theirs))
        if pair is None or pair.pairs < MIN_SEEDS:
            continue
        differences.append(pair)
        used += [*mine.values(), *theirs.values()]
        parts.append(
            f"{NAMED[name]}, {samples} rows, {pair.pairs} seeds: {_mean(mine, theirs):.4f}, {pair.mean:+.4f} "
            f"[{pair.low:+.4f}, {pair.high:+.4f}], {pair.wins} won, {pair.losses} lost"
        )
    average = fmean(pair.mean for pair in differences) if differences else 0.0
    behind = any(pair.high < 0 for pair in differences)
    below = average <= least
    status = DIFFERS if below and behind else PARTLY if below or behind else AGREES
    ours = f"on average {average:+.4f}: " + "; ".join(parts)
    return claim(text, published, ours, status, command, used)


def _mean(cells: Mapping[int, Cell], others: Mapping[int, Cell]) -> float:
    return fmean(score for seed, score in scores(cells).items() if seed in others)


def _peers(cells: Cells, published: str) -> Cell:
    parts, used, behind = [], [], False
    for name, samples in places(cells):
        mine, listed = of(cells, OURS, name, samples), []
        for run in PEERS:
            theirs = of(cells, run, name, samples)
            pair = paired(scores(mine), scores(theirs))
            if pair is None or pair.pairs < MIN_SEEDS:
                continue
            used += theirs.values()
            behind = behind or pair.high < 0
            listed.append(f"{run} {pair.mean:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]")
        if listed:
            parts.append(f"{NAMED[name]}, {samples} rows, less {', '.join(listed)}")
    command = f"{COMMAND} --runs deep-lora {' '.join(PEERS)}"
    return claim("Level with its peers at rank 8 (VeRA 256) and their usual rates, or ahead", published,
                 "; ".join(parts), DIFFERS if behind else AGREES, command, used)  # fmt: skip


def flat(
    text: str,
    published: str,
    cells: Cells,
    swept: Mapping[str, Mapping[float, str]],
    samples: int,
    command: str,
    name: str = "trec",
) -> Cell:
    """Is the range of mean scores around Deep LoRA's default at most a third of that around LoRA's?

    Args:
        text: the claim.
        published: the paper's figures.
        cells: all of them.
        swept: of each method, the runs around its default by the value that varies.
        samples: rows.
        command: that runs them.
        name: of the set.
    """
    runs = {
        method: {at: of(cells, run, name, samples) for at, run in values.items()}
        for method, values in swept.items()
    }
    runs = {method: by_value for method, by_value in runs.items() if all(by_value.values())}
    every = [set(seeds) for by_value in runs.values() for seeds in by_value.values()]
    shared = set.intersection(*every) if every else set()  # a mean over more seeds varies less
    parts, used, ranges = [], [], {}
    for method, by_value in runs.items() if shared else ():
        means = {at: fmean(scores(seeds)[seed] for seed in shared) for at, seeds in by_value.items()}
        ranges[method] = max(means.values()) - min(means.values())
        used += [seeds[seed] for seeds in by_value.values() for seed in shared]
        listed = ", ".join(f"{mean:.3f} at {at:g}" for at, mean in sorted(means.items()))
        parts.append(f"{method}, {len(shared)} seeds: {listed}, from least to most {ranges[method]:.3f}")
    both = {"deep-lora", "lora"} <= set(ranges)
    status = AGREES if both and ranges["deep-lora"] <= ranges["lora"] / 3 else DIFFERS
    return claim(f"{text}: {NAMED[name]}, {samples} rows", published, "; ".join(parts), status, command,
                 used if both else [])  # fmt: skip


BETWEEN = "lora, 3e-4"
HEADER = ["", "rows", "untouched or head alone", "LoRA, lr 2e-4", "LoRA, lr 3e-4", "LoRA, lr 1e-3", "LoRA, lr tuned",
          "Deep LoRA", "less tuned LoRA (95 %)", "won, lost"]  # fmt: skip


def table(cells: Cells) -> str:
    """Mean scores on the same seeds as Deep LoRA's, and its difference to the tuned LoRA."""
    rows = [row for place in places(cells) if (row := _table_row(cells, *place))]
    seeds = {len(of(cells, TUNED, *place)) for place in places(cells)} - {0}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    test_rows = ", ".join(map(str, sorted({cell["test_rows"] for cell in cells.values()})))
    note = f"MiniLM; {count} seeds, {test_rows} test rows each; what is empty was not run."
    return f"{markdown_table(HEADER, 'l' + 'r' * (len(HEADER) - 1), rows)}\n\n{note}"


def _table_row(cells: Cells, name: str, samples: int) -> list[str] | None:
    ours, tuned = of(cells, OURS, name, samples), of(cells, TUNED, name, samples)
    pair = paired(scores(ours), scores(tuned))
    if pair is None:
        return None
    shared = {seed: ours[seed] for seed in tuned if seed in ours}
    floor = next((run for run in FLOORS if of(cells, run, name, samples)), "")
    runs = (floor, FIXED[0], BETWEEN, FIXED[1], TUNED, OURS)
    return [
        f"{NAMED[name]}, {next(iter(ours.values()))['main']}",
        f"{samples}",
        *(_mean_text(cells, run, name, samples, shared) for run in runs),
        f"{pair.mean:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})",
        f"{pair.wins}, {pair.losses}",
    ]


def _mean_text(cells: Cells, run: str, name: str, samples: int, shared: Mapping[int, Cell]) -> str:
    seeds = of(cells, run, name, samples)
    return f"{_mean(seeds, shared):.3f}" if set(shared) <= set(seeds) else ""


def places(cells: Cells) -> list[tuple[str, int]]:
    """Sets and numbers of rows."""
    pairs = {(cell["set"], cell["samples"]) for cell in cells.values()}
    return sorted(pairs, key=lambda place: (place[1], list(NAMED).index(place[0])))


def of(cells: Cells, run: str, name: str, samples: int) -> dict[int, Cell]:
    """The cells of a run on a set, by seed."""
    wanted = (run, name, samples)
    return {
        cell["seed"]: cell for cell in cells.values() if (cell["run"], cell["set"], cell["samples"]) == wanted
    }


def scores(cells: Mapping[int, Cell]) -> dict[int, float]:
    """The main score by seed."""
    return {seed: cell["score"] for seed, cell in cells.items()}


def figure(cells: Cells, path: Path) -> None:
    """Differences to the tuned LoRA, seed by seed."""
    where = [place for place in places(cells) if of(cells, TUNED, *place)]

    def fill(axes: list[Axes]) -> None:
        for spare in axes[len(where) :]:
            spare.remove()
        for ax, place in zip(axes, where, strict=False):
            _differences(ax, cells, *place)

    columns = len({name for name, _ in where})  # a line of panels for each number of rows
    draw_panels(path, -(-len(where) // columns), columns, fill)


def _differences(ax: Axes, cells: Cells, name: str, samples: int) -> None:
    base = scores(of(cells, TUNED, name, samples))
    runs: Sequence[str] = [run for run in COLORS if run != TUNED and of(cells, run, name, samples)]
    for place, run in enumerate(reversed(runs)):
        own = scores(of(cells, run, name, samples))
        pair = paired(own, base)
        if pair is None:
            continue
        apart = [own[seed] - base[seed] for seed in own if seed in base]
        ax.plot(apart, [place] * len(apart), "o", color=COLORS[run], markersize=3, alpha=0.5)
        ax.errorbar(pair.mean, place, xerr=[[pair.mean - pair.low], [pair.high - pair.mean]], fmt="|",
                    color=COLORS[run], markersize=11, capsize=3)  # fmt: skip
    ax.axvline(0, color=VERMILION, linewidth=1)
    ax.locator_params(axis="x", nbins=6)
    ax.set_yticks(range(len(runs)), list(reversed(runs)), fontsize=7)
    ax.set_title(f"{NAMED[name]}, {samples} rows", fontsize=9)
    ax.set_xlabel(f"less tuned LoRA ({median(base.values()):.3f})" if base else "", fontsize=8)
