"""Commands under torchrun: each writes and prints once."""

from __future__ import annotations

import os

import pytest

from command import corefold
from corefold.cli import console
from corefold.cli.processes import LAUNCHER_VARIABLES, divide_work


@pytest.fixture
def rank(monkeypatch):
    """A function that makes this process look like one of two that torchrun started."""
    monkeypatch.setattr(console.console, "quiet", False)
    monkeypatch.setattr(console._errors, "quiet", False)

    def start(number: int) -> None:
        for name in LAUNCHER_VARIABLES:
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("RANK", str(number))

    return start


@pytest.mark.parametrize("command", ["predict", "evaluate", "compare", "merge"])
def test_a_command_with_nothing_to_divide_runs_in_the_first_process_alone(rank, command):
    rank(1)
    with pytest.raises(SystemExit) as stop:
        divide_work([command, "out"])
    assert stop.value.code == 0
    rank(0)
    divide_work([command, "out"])
    assert not {*LAUNCHER_VARIABLES} & {*os.environ}


def test_only_the_first_process_of_finetune_speaks(rank, tmp_path):
    bad = ("finetune", "--model", "nowhere", "-o", tmp_path / "out")
    rank(0)
    assert "--train is missing" in corefold(*bad).err
    rank(1)
    silent = corefold(*bad)
    assert (silent.code, silent.out, silent.err) == (2, "", "")


def test_without_torchrun_nothing_changes(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    divide_work(["predict"])
    divide_work(["finetune"])
    assert not console.console.quiet
