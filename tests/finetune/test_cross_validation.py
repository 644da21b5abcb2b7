"""Folds: each is a run of its own, finished ones are kept, and the last model trains on all rows."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from corefold.finetune import InputError, RunConfig, finetune, load_settings
from corefold.finetune import cross_validation as module
from corefold.finetune.run_data import draw_rows_for_folds, folds_of, read_tables, take


@pytest.fixture(scope="module")
def folded(run_config, tmp_path_factory):
    """Settings of a run in three folds, with a class of one row; its folder and the lines that it said."""
    place, said = tmp_path_factory.mktemp("folds"), []
    table = pd.read_csv(run_config().train)
    table.loc[len(table)] = ["a rare one", "rare"]
    table.to_csv(place / "t.csv", index=False)
    config, out = run_config(train=str(place / "t.csv"), eval=None, folds=3, width=8, rank=2), place / "out"
    finetune(config, out, progress=False, note=said.append)
    return config, out, said


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def test_every_row_is_judged_once_and_the_last_model_trains_on_all(folded):
    _, out, said = folded
    metrics = metrics_of(out)
    folds = metrics["folds"]
    assert folds["count"] == len(folds["folds"]) == 3
    assert metrics["rows"] == {"train": 33, "eval": sum(each["rows"]["eval"] for each in folds["folds"])}
    assert metrics["rows"]["eval"] == 32
    for part in ("baseline", "before", "after"):
        for name, value in metrics[part].items():
            assert value == pytest.approx(np.mean([each[part][name] for each in folds["folds"]]))
    assert metrics["after"] == folds["mean"]
    low, high = metrics["intervals"]["accuracy"]
    assert low < metrics["after"]["accuracy"] < high or metrics["after"]["accuracy"] in (0, 1)
    assert np.sum(metrics["report"]["confusion"]) == 32
    assert metrics["class_rows"] == {"neg": 16, "pos": 16, "rare": 1}
    assert said[1] == "never judged, for lack of rows to evaluate on: 'rare'"
    assert [line.partition(":")[0] for line in said[2:5]] == [f"fold {n} of 3" for n in (1, 2, 3)]
    assert not (out / ".checkpoints").exists()


def test_a_fold_is_what_a_run_on_its_rows_is(folded, tmp_path):
    config, out, _ = folded
    tables = read_tables(config)
    rows, held_out = draw_rows_for_folds(config, tables)
    assert held_out is None
    paths = [str(tmp_path / name) for name in ("train.csv", "eval.csv")]
    for part, path in zip(take(rows, folds_of(config, tables.task, rows)[1]), paths, strict=True):
        part.to_csv(path, index=False)
    settings = load_settings(out / "config.yaml") | {"folds": None, "train": paths[0], "eval": paths[1]}
    alone = finetune(RunConfig(**settings), tmp_path / "out", progress=False)
    assert alone.metrics["after"] == metrics_of(out)["folds"]["folds"][1]["after"]


def test_the_last_model_is_that_of_a_run_without_folds(folded, tmp_path):
    config, out, _ = folded
    settings = load_settings(out / "config.yaml") | {"folds": None, "eval": config.train}
    finetune(RunConfig(**settings), tmp_path / "out", progress=False)
    names = ("adapter_model.safetensors", "head.safetensors")
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_stopped_run_keeps_its_finished_folds(folded, tmp_path, monkeypatch):
    config, whole, _ = folded
    out, prepare, trained = tmp_path / "out", module.prepare, []

    def stopping(data, place, **options):
        trained.append(place.name)
        if trained == ["fold-1", "fold-2"]:
            raise KeyboardInterrupt
        return prepare(data, place, **options)

    monkeypatch.setattr(module, "prepare", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, out, progress=False)
    finetune(RunConfig(**load_settings(out / "config.yaml")), out, resume=True, progress=False)
    assert trained == ["fold-1", "fold-2", "fold-2", "fold-3"]
    resumed, expected = metrics_of(out), metrics_of(whole)
    for part in ("folds", "before", "after", "intervals", "report", "train_loss"):
        assert resumed[part] == expected[part], part
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_rows_of_their_own_judge_the_last_model(run_config, tmp_path):
    out = tmp_path / "out"
    finetune(run_config("cosine", folds=2, steps=1), out, progress=False)
    metrics = metrics_of(out)
    assert metrics["rows"] == {"train": 12, "eval": 12}
    assert metrics["after"] != metrics["folds"]["mean"]
    assert {*metrics["folds"]["intervals"]} == {*metrics["intervals"]} == {"pearson", "spearman", "mse"}


def test_more_folds_than_rows_are_refused_before_there_is_a_folder(run_config, tmp_path):
    with pytest.raises(InputError, match="--folds 20 needs 20 rows or more, and the largest class"):
        finetune(run_config(eval=None, folds=20), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--folds must be at least 2; got 1"):
        run_config(folds=1)
