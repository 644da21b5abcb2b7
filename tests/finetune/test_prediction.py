"""Predictions and scores of a finished run, against the model called by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from command import write_csv
from corefold.finetune import InputError, evaluate, load_run, predict


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
