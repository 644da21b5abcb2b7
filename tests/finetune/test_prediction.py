"""Predictions and scores of a finished run, against the model called by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from command import write_csv
from corefold.finetune import InputError, evaluate, load_run, predict
from corefold.finetune.prediction import check_output, write_table


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained)


def test_probabilities_are_those_of_the_model(run, sources):
    source = sources["mean"]["train"]
    table = pd.read_csv(source)
    predicted = predict(run, source, batch_size=5, progress=False)
    pd.testing.assert_frame_equal(predicted[["text", "label"]], table)
    with torch.no_grad():
        tokens = run.tokenizer(table["text"].tolist(), padding=True, return_tensors="pt")
        probabilities = run.model(dict(tokens)).logits.softmax(-1).numpy()
    assert predicted["prediction"].tolist() == [run.task.classes[i] for i in probabilities.argmax(-1)]
    np.testing.assert_allclose(predicted["probability"], probabilities.max(-1), rtol=1e-4)
    scores = evaluate(run, source, batch_size=7, progress=False)
    assert scores["rows"] == 32
    assert scores["accuracy"] == (predicted["prediction"] == table["label"]).mean()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["text", "prediction"], "already has a column 'prediction'; rename it"),
        (["text", "probability"], "already has a column 'probability'"),
        (["body", "label"], "no column 'text'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(run, tmp_path, header, words):
    path = write_csv(tmp_path / "t.csv", header, [("a", "b")])
    with pytest.raises(InputError, match=words):
        predict(run, str(path), progress=False)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_tables_are_written_in_every_format(tmp_path, ending):
    table = pd.DataFrame({"text": ["Größe, x", 'a "b"'], "n": [1, 2]})
    path = tmp_path / f"out{ending}"
    write_table(table, path, overwrite=False)
    read = {
        ".csv": pd.read_csv,
        ".tsv": lambda p: pd.read_csv(p, sep="\t"),
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".parquet": pd.read_parquet,
    }[ending.lower()]
    pd.testing.assert_frame_equal(read(path), table)


def test_no_file_is_lost(tmp_path):
    (tmp_path / "kept.csv").write_text("mine")
    for path, words in (
        (tmp_path / "kept.csv", "exists; choose another -o or add --overwrite"),
        (tmp_path / "new.txt", "expected a name ending in one of .csv"),
        (tmp_path / "no/new.csv", "no such folder"),
    ):
        with pytest.raises(InputError, match=words):
            check_output(path, overwrite=False)
    check_output(tmp_path / "kept.csv", overwrite=True)
