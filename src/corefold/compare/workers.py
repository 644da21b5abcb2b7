"""Cells in several processes, one for each core or GPU, each with its share of the threads.

`concurrent.futures` does not do: each GPU needs an environment of its own, and its processes would outlive a parent
that is killed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from corefold.compare.cell import SharedInputs, run_cell
from corefold.compare.grid import Key
from corefold.compare.store import append
from corefold.errors import InputError

OnDone = Callable[[dict[str, Any]], None]
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_TO_END = 5.0  # that a process gets to tidy up


def default_jobs() -> int:
    """The number of GPUs, or else of cores that this process may use."""
    return torch.cuda.device_count() or _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(shared: SharedInputs, keys: Sequence[Key], out: Path, jobs: int, done: OnDone) -> None:
    """Run the cells and add each to the store in `out` as it ends.

    Args:
        shared: the inputs that all cells share.
        keys: cells, in the order in which they begin.
        out: the folder of the comparison.
        jobs: processes at once; a single job without a choice of GPUs runs in this process.
        done: called with each record.

    Raises:
        InputError: a process was killed.
        OSError: a cell met with it.
    """
    jobs = min(jobs, len(keys))
    if jobs <= 1 and torch.cuda.device_count() <= 1:
        with _light_collection():
            for key in keys:
                record = run_cell(shared, key)
                append(out, record)
                done(record)
        return
    workers: list[_Worker] = []
    try:
        for number in range(jobs):
            workers.append(_Worker.start(number, jobs, shared, out))
        _share_out(workers, list(keys), done)
        for worker in workers:
            worker.line.close()
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        for worker in workers:
            worker.end()


@dataclass
class _Worker:
    process: BaseProcess
    line: Connection
    key: Key | None = None

    @classmethod
    def start(cls, number: int, jobs: int, shared: SharedInputs, out: Path) -> _Worker:
        # Spawned: a fork of a process with threads, or with a GPU in use, may hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        threads = max(1, _cores() // jobs)
        process = context.Process(target=_work, args=(there, shared, out, threads), daemon=True)
        with _one_gpu(number):
            process.start()
        there.close()  # then only the worker holds that end, and its death closes the line
        return cls(process, here)

    def begin(self, keys: list[Key]) -> None:
        self.key = keys.pop(0) if keys else None
        if self.key is not None:
            self.line.send(self.key)

    def end(self) -> None:
        self.process.join(SECONDS_TO_END)
        self.process.kill()
        self.process.join()


def _share_out(workers: Sequence[_Worker], keys: list[Key], done: OnDone) -> None:
    for worker in workers:
        worker.begin(keys)
    while busy := {worker.line: worker for worker in workers if worker.key is not None}:
        for line in wait(list(busy)):
            worker = busy[line]  # type: ignore[index]
            try:
                answer = worker.line.recv()
            except EOFError as error:
                worker.process.join()
                raise InputError(
                    f"the process at {worker.key} ended with {worker.process.exitcode}; if memory is short, lower "
                    "--jobs. The same command continues the comparison"
                ) from error
            if isinstance(answer, OSError):
                raise answer
            done(answer)
            worker.begin(keys)


@contextmanager
def _light_collection() -> Iterator[None]:
    """Keep the garbage collector off the imported libraries: they cost half a second, and a cell collects twice."""
    by_caller = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not by_caller:
            gc.unfreeze()


@contextmanager
def _one_gpu(number: int) -> Iterator[None]:
    """Environment in which a new process sees one GPU; a process that has begun can no longer be limited to one."""
    count, before = torch.cuda.device_count(), os.environ.get(VISIBLE)
    if not count:
        yield
        return
    names = before.split(",") if before else [str(device) for device in range(count)]
    os.environ[VISIBLE] = names[number % count]
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


def _work(line: Connection, shared: SharedInputs, out: Path, threads: int) -> None:
    """The body of a process: run a cell for each key that comes, until the parent closes the line or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends them
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=FutureWarning)  # addressed to developers of these libraries
    warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")
    try:
        with _light_collection():
            while True:
                key = line.recv()
                try:
                    record = run_cell(shared, key)
                    append(out, record)
                except OSError as error:
                    line.send(error)
                    return
                line.send(record)
    except (EOFError, ConnectionError):  # the parent is gone
        return


def _leave(*_: Any) -> None:
    raise SystemExit(0)  # the signal's default action would leave temporary folders behind
