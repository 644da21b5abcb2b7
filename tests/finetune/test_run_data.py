"""From settings to encoded rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from corefold.finetune import InputError, RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.run_data import draw_rows, prepare_data, read_tables, with_absolute_paths


def test_files_get_absolute_paths_and_names_on_the_hub_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.csv").touch()
    config = with_absolute_paths(RunConfig(model="some/model", train="train.csv", eval="data:test"))
    assert (config.model, config.train, config.eval) == (
        "some/model",
        str(tmp_path / "train.csv"),
        "data:test",
    )


def test_folders_with_splits_get_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    config = with_absolute_paths(RunConfig(model="m", train="saved:train", eval="saved"))
    assert (config.train, config.eval) == (f"{tmp_path / 'saved'}:train", str(tmp_path / "saved"))


def test_guesses_are_said_once_and_rows_have_digests(run_config, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text;label\n" + "".join(f"a text {i};{i % 2}\n" for i in range(8)))
    tables = read_tables(run_config(train=str(path), eval=str(path), head=None))
    said = [str(path), "task classification", "head mean"]
    assert [note.partition(":")[0] for note in tables.notes] == said
    assert tables.digests()["train"] == tables.digests()["eval"]
    path.write_text(path.read_text().replace(";0", ";2"))
    changed = read_tables(run_config(train=str(path), eval=None)).digests()
    assert changed["train"] != tables.digests()["train"]
    assert changed["eval"] is None


@pytest.mark.parametrize("missing", ["model", "train"])
def test_model_and_training_data_are_needed(missing):
    with pytest.raises(InputError, match=f"--{missing} is missing"):
        with_absolute_paths(RunConfig(**{"model": "m", "train": "t", missing: ""}))


def test_rows_are_drawn_by_the_seed_and_evaluated_on_others(run_config):
    config = run_config(eval=None, samples=10, eval_samples=4)
    tables = read_tables(config)
    assert (len(tables.train), tables.held_out, tables.task.classes) == (32, None, ("neg", "pos"))
    train, held_out = draw_rows(config, tables)
    assert (len(train), len(held_out)) == (10, 4)
    assert train["label"].value_counts().to_dict() == {"neg": 5, "pos": 5}
    assert not {*train["text"]} & {*held_out["text"]}
    again = draw_rows(config, tables)
    pd.testing.assert_frame_equal(train, again[0])
    pd.testing.assert_frame_equal(held_out, again[1])
    other = draw_rows(run_config(eval=None, samples=10, seed=1), tables)[0]
    assert not train.equals(other)


def test_a_draw_with_one_class_is_refused(run_config):
    config = run_config(samples=1)
    with pytest.raises(InputError, match="1 training rows have one class only"):
        draw_rows(config, read_tables(config))


def test_rows_are_encoded_and_cut_to_the_positions_of_the_model(run_config):
    config = run_config(max_length=5000)
    tables = read_tables(config)
    data = prepare_data(config, tables.task, *draw_rows(config, tables), METHODS["lora"])
    assert (len(data.train), len(data.eval)) == (32, 32)
    assert data.train[0].keys() == {"first", "labels"}
    assert data.task.max_length == data.tokenizer.model_max_length < 5000
    assert data.settings.method is METHODS["lora"]


def test_heads_and_pairs_are_said_unless_they_are_chosen(run_config):
    said = " ".join(read_tables(run_config("cosine", pair=None, head=None)).notes)
    assert "pair joint: two texts are read as one input; --pair changes that" in said
    assert not any("--pair" in note or "--head" in note for note in read_tables(run_config("own")).notes)


def test_what_of_a_checkpoint_is_not_used_is_said(run_config, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    assert not any(str(folder) in note for note in read_tables(run_config(model=str(folder))).notes)
    (folder / "head.safetensors").touch()  # as in the folder of a run of --method full
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
    modules = [{"type": f"a.b.{name}"} for name in ("Transformer", "Pooling", "Dense")]
    (folder / "modules.json").write_text(json.dumps(modules))
    said = " ".join(read_tables(run_config(model=str(folder))).notes)
    assert "pooling cls: as 1_Pooling/config.json of" in said
    assert "has Dense behind the pooling, which is not used" in said
    assert (
        "is a run with a head of its own (head.safetensors), which is not used: a new head is drawn" in said
    )


@pytest.mark.parametrize(("longest", "cut"), [(4, True), (64, False)])
def test_texts_that_are_cut_are_said(run_config, longest, cut):
    config = run_config(max_length=longest)
    tables = read_tables(config)
    notes = prepare_data(config, tables.task, *draw_rows(config, tables), METHODS["lora"]).notes
    assert any(f"fill the {longest} tokens that are read" in note for note in notes) == cut
