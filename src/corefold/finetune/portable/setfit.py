"""The classifier of a SetFit model, on a body whose `encode` returns logits.

SetFit's folder is sentence-transformers' with two more files. They are written here and not by
`SetFitModel.save_pretrained`, so that users of sentence-transformers need not install SetFit; a test compares both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from corefold.finetune.task import Task

HEAD, CONFIG = "model_head.pkl", "config_setfit.json"


def write(folder: Path, task: Task) -> None:
    """Write SetFit's two files for the classes of a task."""
    import joblib

    joblib.dump(classifier(len(task.classes), is_multi_label(task)), folder / HEAD)
    settings = {"labels": list(task.classes), "normalize_embeddings": False}
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def is_multi_label(task: Task) -> bool:
    """Whether a text may have several of the classes."""
    return task.kind == "multi-label"


def classifier(classes: int, multi_label: bool) -> Any:
    """A classifier of scikit-learn whose `predict_proba` is the softmax of its input, or the sigmoid of each number."""
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import LabelBinarizer

    if not multi_label:
        # scikit-learn keeps one row for two classes, and takes its sigmoid.
        return _regression(np.array([[-1.0, 1.0]]) if classes == 2 else np.eye(classes))
    model: Any = OneVsRestClassifier(_regression(np.eye(classes)[:1]))
    model.estimators_ = [_regression(row[None]) for row in np.eye(classes)]
    model.label_binarizer_ = LabelBinarizer().fit(np.eye(classes, dtype=int))
    model.n_features_in_ = classes
    return model


def _regression(weights: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression()
    rows, width = weights.shape
    model.coef_, model.intercept_ = weights, np.zeros(rows)
    model.classes_ = np.arange(max(2, rows))
    model.n_features_in_, model.n_iter_ = width, np.zeros(rows, dtype=int)
    return model
