"""A comparison from its settings to its results, in a folder from which a later run continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from corefold.compare.cell import SharedInputs
from corefold.compare.decisions import check_decisions
from corefold.compare.grid import Grid, Key, Try, trains
from corefold.compare.identity import shared_settings
from corefold.compare.page import write_comparison
from corefold.compare.store import open_store, read_cells
from corefold.compare.summary import SummaryRow, summarise, write_tables
from corefold.compare.words import names_of
from corefold.compare.workers import OnDone, default_jobs, run_all
from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.run_data import read_tables, rows_to_train, with_absolute_paths


@dataclass(frozen=True)
class Plan:
    """A comparison that can run.

    Attributes:
        grid: its cells.
        out: its folder, which exists.
        shared: the inputs that all cells share.
        settings: the settings that the folder holds.
        todo: the cells that have no record yet.
    """

    grid: Grid
    out: Path
    shared: SharedInputs
    settings: Mapping[str, Any]
    todo: Sequence[Key]

    def run(self, jobs: int | None, done: OnDone) -> None:
        """Run the cells that are left, in `jobs` processes (default: one for each GPU, else one for each core)."""
        if self.todo:
            run_all(self.shared, self.todo, self.out, jobs or default_jobs(), done)

    def results(self) -> list[SummaryRow]:
        """Write table.csv, table.json and index.html of all cells in the folder, and return the table.

        Raises:
            InputError: every cell ended in an error.
        """
        cells = list(read_cells(self.out).values())
        rows = summarise(cells, self.grid.methods)
        write_tables(self.out, rows, names_of(cells[0]))
        if not any(row.seeds for row in rows):
            raise InputError(f"no cell has a score; the first says: {rows[0].error}")
        write_comparison(self.out, rows, cells, self.settings, self.grid.methods[0])
        return rows


def begin(
    config: RunConfig,
    out: Path,
    *,
    methods: Sequence[str],
    ranks: Sequence[int],
    samples: Sequence[int] | None,
    seeds: int,
    tries: Mapping[str, Sequence[Try]],
    retry: bool = False,
) -> Plan:
    """Read the data and open the folder.

    Args:
        config: the settings that cells share.
        out: a folder that is empty, or holds a part of this comparison, or a smaller one.
        methods: names of methods, the baseline first.
        ranks: ranks of the adapters.
        samples: numbers of training rows; None for all rows.
        seeds: the number of seeds.
        tries: settings to choose from, by method.
        retry: run cells again that ended in an error.

    Raises:
        InputError: settings or data that cannot be used, or a folder that holds something else.
    """
    config = with_absolute_paths(config).with_defaults()
    tables = read_tables(config)
    rows = rows_to_train(config, tables)
    tries = {name: list(tries.get(name, ())) for name in methods if trains(name)}
    for settings in chain.from_iterable(tries.values()):
        replace(config, **settings)  # It refuses settings that do not fit each other.
    grid = Grid(config, tuple(methods), tuple(ranks), tuple(samples or (rows,)), seeds, tries)
    if max(grid.samples) > rows:
        raise InputError(f"--samples {max(grid.samples)}: {config.train} has {rows} rows to train on")
    identity = shared_settings(config, tables)
    done = read_cells(out)
    settings = open_store(
        out,
        {**identity, "tries": tries},
        lambda merged: check_decisions(out, config, tables.task, merged["tries"], done),
    )
    about = {
        "model": {"name": config.model, "digest": identity["model"]},
        "data": {
            "train": config.train,
            "eval": config.eval,
            "digests": [identity["train"], identity["eval"]],
        },
    }
    todo = [key for key in grid.keys() if key not in done or (retry and done[key]["error"])]  # noqa: SIM118
    return Plan(grid, out, SharedInputs(config, tries, tables, about), settings, todo)
