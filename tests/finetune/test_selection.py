"""Keeping the best step and stopping early, by rows held out of the training rows."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from corefold.finetune import InputError, RunConfig, finetune, load_settings
from corefold.finetune.callbacks import StopAtNonFiniteLoss
from corefold.finetune.methods import METHODS
from corefold.finetune.run_data import draw_rows, prepare_data, read_tables
from corefold.finetune.trainer import prepare

# A head that overshoots, so that the last step is not the best one.
OVERSHOOTING = {"head_lr": 3.0, "steps": 12, "checkpoint_every": 1, "keep": "best"}


def started(config, out):
    tables = read_tables(config)
    data = prepare_data(config, tables.task, *draw_rows(config, tables), METHODS[config.method])
    return prepare(data, out, keep=True)


def losses_of(run):
    return {each["step"]: each["eval_loss"] for each in run.trainer.state.log_history if "eval_loss" in each}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mean", {"width": 8, "basis_lr_ratio": 1.0, "lr": 0.5}),
        ("own", {"width": 8, "basis_lr_ratio": 1.0, "lr": 0.5}),
        ("own", {"method": "lora"}),
    ],
)
def test_the_model_that_is_kept_is_whole_and_has_the_lowest_loss_on_rows_that_did_not_train(
    run_config, tmp_path, kind, settings
):
    run = started(run_config(kind, **OVERSHOOTING, **settings), tmp_path)
    data, before = run.data, run.trainable_parameters()
    assert (len(data.train), len(data.selection)) == (26, 6)
    rows = [[json.dumps(row) for row in part] for part in (data.train, data.selection)]
    assert not {*rows[0]} & {*rows[1]}
    run.train()
    losses = losses_of(run)
    assert len(losses) == 12
    assert run.kept_step() == min(losses, key=lambda step: losses[step]) < 12
    again = run.trainer.evaluate(data.selection)["eval_loss"]
    assert again == pytest.approx(min(losses.values()), rel=1e-5)
    assert again < losses[12]
    assert run.trainable_parameters() == before


@pytest.mark.parametrize("keep", ["last", "best"])
def test_patience_stops_after_evaluations_without_a_lower_loss(run_config, tmp_path, keep):
    run = started(run_config(**{**OVERSHOOTING, "keep": keep, "steps": 40}, patience=2), tmp_path)
    run.train()
    losses = [*losses_of(run).values()]
    stopped = run.trainer.state.global_step
    assert stopped == len(losses) < 40
    assert min(losses[-2:]) >= min(losses[:-2])
    assert run.kept_step() == (stopped if keep == "last" else 1 + losses.index(min(losses)))


def test_a_stopped_run_resumes_to_the_same_best_model_in_a_folder_that_moved(
    run_config, tmp_path, monkeypatch
):
    config, said = run_config(**{**OVERSHOOTING, "width": 8}, patience=9), []
    whole = finetune(config, tmp_path / "whole", progress=False, note=said.append)
    kept = whole.metrics["kept"]
    assert "6 of the 32 training rows do not train: their loss chooses the step to keep (--keep best)" in said
    assert whole.metrics["rows"] == {"train": 26, "eval": 32, "selection": 6}
    stop = StopAtNonFiniteLoss.on_log

    def stopping(self, args, state, control, logs=None, **more):
        if state.global_step == kept["step"] + 2:
            raise KeyboardInterrupt
        stop(self, args, state, control, logs, **more)

    monkeypatch.setattr(StopAtNonFiniteLoss, "on_log", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, tmp_path / "out", progress=False)
    monkeypatch.undo()
    out = shutil.move(tmp_path / "out", tmp_path / "moved")
    finetune(RunConfig(**load_settings(out / "config.yaml")), out, resume=True, progress=False)
    resumed = json.loads((out / "metrics.json").read_text())
    expected = json.loads((tmp_path / "whole/metrics.json").read_text())
    for part in ("kept", "before", "after", "intervals"):
        assert resumed[part] == expected[part], part
    for name in ("adapter_model.safetensors", "head.safetensors"):
        ours, theirs = (load_file(folder / name) for folder in (out, tmp_path / "whole"))
        assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_too_few_rows_to_hold_out_any_are_refused(run_config, tmp_path):
    with pytest.raises(
        InputError, match="hold out a fifth of the training rows, and there are 4; leave them out"
    ):
        finetune(run_config(samples=4, keep="best"), tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="--patience must be at least 1"):
        run_config(patience=0)
