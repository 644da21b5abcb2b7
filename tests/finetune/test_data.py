"""Which columns and which task a table suggests, what is said about it, and how its cells are cleaned."""

from __future__ import annotations

import pandas as pd
import pytest

from corefold.finetune import InputError, RunConfig, data
from corefold.finetune.data import Columns
from corefold.finetune.tasks.kinds import KINDS

COLUMNS = Columns("text", label="label")


def table(*labels: object, **columns: list) -> pd.DataFrame:
    cells = columns or {"text": [f"text {i}" for i in range(len(labels))], "label": list(labels)}
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in cells.items()})


def clean(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    return data.clean(frame, COLUMNS, KINDS[kind].clean_labels, "t.csv")


def choose(frame: pd.DataFrame, columns: Columns = COLUMNS, model: bool = False) -> tuple[str, list[str]]:
    notes: list[str] = []
    return data.choose_task(RunConfig(train="t.csv"), frame, columns, lambda: model, notes), notes


@pytest.mark.parametrize(
    ("labels", "kind", "says"),
    [
        (["a", "b"] * 4, "classification", "'label' holds 2 classes"),
        (["1", "2"] * 4, "classification", "the 2 whole numbers in 'label' are read as names of classes"),
        ([1, 2.0, None] * 4, "classification", "the 2 whole numbers"),
        (["0.5", "1"] * 4, "regression", "'label' holds numbers with fractions"),
        (
            [*map(str, range(60))],
            "regression",
            "the 60 whole numbers in 'label' are read as amounts.*more than 50",
        ),
        (
            [f"{i:03d}" for i in range(60)],
            "classification",
            "the 60 whole numbers in 'label' are read as names",
        ),
        (["1.5", "n/a"] * 4, "classification", "2 classes"),
        ([True, False] * 4, "classification", "2 classes"),
        (["²", "①", "--1"] * 4, "classification", "3 classes"),
        ([f"a text of its own {i}" for i in range(60)], "causal-lm", "60 different texts in 60 rows"),
    ],
)
def test_labels_suggest_a_task_and_the_reason_is_said(labels, kind, says):
    chosen, notes = choose(table(*labels))
    assert chosen == kind
    assert len(notes) == 1
    pd.testing.assert_series_equal(pd.Series(notes).str.contains(says), pd.Series([True]))
    assert notes[0].startswith(f"task {kind}: ")
    assert notes[0].endswith("; --task changes that")


@pytest.mark.parametrize("completions", [["yes", "no"], ["1", "2"], ["0.5", "7"], ["a text", "another"]])
def test_prompt_and_completion_of_a_language_model_are_causal_lm(completions):
    frame, columns = (
        table(prompt=["a", "b"] * 4, completion=completions * 4),
        Columns("prompt", None, "completion"),
    )
    kind, notes = choose(frame, columns, model=True)
    assert kind == "causal-lm"
    assert "language model" in notes[0]
    assert "--task" in notes[0]
    assert choose(frame, columns, model=False)[0] != "causal-lm"
    assert choose(frame.set_axis(["text", "label"], axis=1), model=True)[0] != "causal-lm"


def test_a_task_that_is_named_is_not_guessed():
    notes: list[str] = []
    config = RunConfig(task="regression")
    assert data.choose_task(config, table("a", "b"), COLUMNS, lambda: True, notes) == "regression"
    assert notes == []


def test_labels_of_several_values_are_refused_before_a_guess():
    with pytest.raises(InputError, match=r"t\.csv, row 1: column 'label' holds a list"):
        choose(table(["a"], ["b"]))


def test_columns_that_were_guessed_are_said():
    notes: list[str] = []
    frame = table(prompt=["a"], completion=["b"])
    assert data.find_columns(RunConfig(), frame, notes) == Columns("prompt", None, "completion")
    assert notes == [
        "columns: --prompt prompt --completion completion, by their names; these options change that"
    ]
    notes.clear()
    data.find_columns(RunConfig(text="prompt", label="completion"), frame, notes)
    assert notes == []


@pytest.mark.parametrize("labels", [["pos", "pos "], ["pos", "Pos"], ["pos", "\u00a0POS"]])
def test_classes_that_are_nearly_equal_are_said(labels):
    notes = data.label_notes(pd.Series([*labels, "neg"]), "t.csv")
    assert len(notes) == 1
    assert "differ only by blanks or case" in notes[0]
    assert all(repr(label) in notes[0] for label in labels)
    assert data.label_notes(pd.Series(["pos", "neg"]), "t.csv") == []


def test_one_number_in_two_spellings_and_decimal_commas_are_said():
    spelled, commas = data.label_notes(pd.Series(["1", "1.0", "1,5"]), "t.csv")
    assert spelled.startswith("t.csv: the classes '1' and '1.0' differ only in how a number is written")
    assert "'1,5' and the other labels are numbers with a decimal comma" in commas
    assert data.label_notes(pd.Series(["01", "1", "2", "v1,5"]), "t.csv") == []


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "02", "1"], ["01", "02", "1"]),
        (["1.1", "1.10", "TRUE"], ["1.1", "1.10", "TRUE"]),
        ([1, 1.0, None], None),
        ([1, 1.0, 1.5], ["1", "1", "1.5"]),
        ([True, False, "true"], ["True", "False", "true"]),
        ([2**53 + 1, "pos ", 0], [str(2**53 + 1), "pos ", "0"]),
    ],
)
def test_classes_are_named_as_written(labels, classes):
    frame = table(*labels)
    if classes is None:
        with pytest.raises(InputError, match=r"row 3: column 'label' is empty"):
            clean(frame, "classification")
    else:
        assert clean(frame, "classification")["label"].tolist() == classes


def test_numbers_are_converted_where_they_are_the_target():
    frame = table("007", "1.10", 2)
    assert clean(frame, "regression")["label"].tolist() == [7.0, 1.1, 2.0]
    assert clean(frame, "causal-lm")["label"].tolist() == ["007", "1.10", "2"]
    with pytest.raises(InputError, match=r"row 2: 'x' in column 'label' is not a finite number"):
        clean(table("1", "x"), "regression")


@pytest.mark.parametrize("cell", ["", "  ", None, ["a"], {"a": 1}, b"a"])
@pytest.mark.parametrize("name", ["text", "label"])
def test_a_cell_that_holds_no_text_is_named_by_its_row(name, cell):
    frame = table("a", "b")
    frame.at[1, name] = cell
    with pytest.raises(InputError, match=rf"t\.csv, row 2: column '{name}'"):
        clean(frame, "classification")


def test_rows_of_a_chunk_are_counted_from_the_beginning_of_the_table():
    chunk = table("a", "").set_axis(pd.RangeIndex(100, 102), axis=0)
    with pytest.raises(InputError, match="row 102"):
        clean(chunk, "classification")
    with pytest.raises(InputError, match="row 2"):
        clean(chunk.set_axis([7, 7], axis=0), "classification")


def test_rows_without_a_text_are_found():
    frame = table(text=["a", " ", None, "d"], other=["x", "y", "z", ""])
    assert data.empty_rows(frame, Columns("text")).tolist() == [False, True, True, False]
    assert data.empty_rows(frame, Columns("text", "other")).tolist() == [False, True, True, True]
