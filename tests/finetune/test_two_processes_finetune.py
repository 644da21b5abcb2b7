"""Two processes train one run: what the first one writes is whole, and both have its scores."""

from __future__ import annotations

from pathlib import Path

from corefold.finetune import RunConfig, finetune, load_run
from two_processes import in_two_processes


def work(config: RunConfig, out: Path):
    result = finetune(config, out, progress=False)
    return result.metrics, [str(path) for path in out.rglob("*")]


def test_two_processes_leave_one_run(run_config, tmp_path):
    config = run_config(eval=None, keep="best", steps=2, width=8)
    (first, files), (second, _) = in_two_processes(work, tmp_path / "meet", config, tmp_path / "out")
    assert first == second
    assert not any(".checkpoints" in name for name in files)
    load_run(tmp_path / "out")
