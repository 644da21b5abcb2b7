"""Which task a table, a checkpoint and the settings make."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from transformers import AutoTokenizer

from corefold.finetune import InputError, RunConfig, Task, data
from corefold.finetune.data import Columns
from corefold.finetune.evaluation.splits import hold_out
from corefold.finetune.run_data import class_column, take
from corefold.finetune.tasks.kinds import KINDS, choose_kind, comes_whole, make_task

COLUMNS = Columns("text", label="label")
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]


def table(labels):
    return pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes the configuration of a checkpoint, and files that mark a sentence encoder."""

    def make(sentences: bool = False, **config) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, **config}))
        if sentences:
            (tmp_path / "modules.json").write_text("[]")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"] * 4, "classification"),
        ([0, 1] * 4, "classification"),
        ([0.5, 1.0] * 4, "regression"),
        ([*range(60)], "regression"),
        ([f"a text of its own {i}" for i in range(60)], "causal-lm"),
    ],
)
def test_the_labels_suggest_a_kind_unless_the_settings_name_one(labels, kind):
    assert choose_kind(RunConfig(), table(labels), COLUMNS) == kind
    assert choose_kind(RunConfig(task="regression"), table(labels), COLUMNS) == "regression"


def test_without_a_label_the_kind_must_be_named():
    with pytest.raises(InputError, match=r"--label must name the column to learn; .* --task causal-lm"):
        choose_kind(RunConfig(), table([0, 1]), Columns("text"))


def test_a_new_head_has_classes_in_order_of_their_numbers_and_names(checkpoint):
    task = make_task(
        RunConfig(model=checkpoint()), "classification", COLUMNS, table(["10", "b", "9", "-1", "a"] * 2)
    )
    assert (task.head, task.classes, task.outputs) == ("mean", ("-1", "9", "10", "a", "b"), 5)
    assert class_column(task) == "label"
    assert not comes_whole(task)


def test_digits_that_are_no_numbers_are_words(checkpoint):
    names = ["①", "²", "--1", "01", "1", "10", "-2", "٣", "-", "9" * 5000]
    task = make_task(RunConfig(model=checkpoint()), "classification", COLUMNS, table(names * 2))
    assert task.classes[:4] == ("-2", "01", "1", "10")
    assert set(task.classes[4:]) == {"①", "²", "--1", "٣", "-", "9" * 5000}


def test_the_head_of_the_checkpoint_keeps_its_order(checkpoint):
    model = checkpoint(architectures=["BertForSequenceClassification"], id2label={"0": "POS", "1": "NEG"})
    task = make_task(RunConfig(model=model), "classification", COLUMNS, table(["neg", "pos"] * 2))
    assert (task.head, task.classes) == ("own", ("pos", "neg"))
    assert comes_whole(task)
    three = make_task(RunConfig(model=model), "classification", COLUMNS, table(["a", "b", "c"] * 2))
    assert three.head == "mean"


@pytest.mark.parametrize(
    ("outputs", "labels", "classes"),
    [
        (["a", "b"], ["A", "a", "b"], ("A", "a", "b")),
        (["a", "A"], ["A", "a"], ("a", "A")),
        (["b", "STRASSE"], ["straße", "B"], ("B", "straße")),
        (["b", "b"], ["a", "b"], ("a", "b")),
        (["a", "A"], ["b", "B"], ("B", "b")),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "multi-label", "token-classification"])
def test_no_class_is_lost_where_names_differ_by_case(checkpoint, kind, outputs, labels, classes):
    model = checkpoint(id2label={str(i): name for i, name in enumerate(outputs)})
    cells = labels * 4 if kind == "classification" else [(label,) for label in labels * 4]
    task = make_task(RunConfig(model=model, head="own", task=kind), kind, COLUMNS, table(cells))
    assert task.classes == classes


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "for texts --task seq2seq",
        ),
        ({"architectures": ["LlamaForCausalLM"]}, "for texts --task causal-lm"),
        ({"architectures": ["BertModel"]}, "texts need a language model"),
    ],
)
def test_the_task_that_is_advised_is_one_that_the_model_can_learn(checkpoint, config, words):
    with pytest.raises(InputError, match=f"4 different labels in 4 rows .*{words}"):
        make_task(RunConfig(model=checkpoint(**config)), "classification", COLUMNS, table([*"abcd"]))


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "unheard-of"}, "mean"),
    ],
)
def test_tokens_are_pooled_as_the_files_of_a_sentence_encoder_say(checkpoint, tmp_path, settings, pooling):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(settings))
    task = make_task(RunConfig(model=checkpoint()), "classification", COLUMNS, table(["a", "b"] * 2))
    assert (task.head, task.pooling) == ("mean", pooling)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("classification", "a", "zzz"),
        ("multi-label", ("a",), ("zzz",)),
        ("token-classification", ("a", "b"), ("a", "zzz")),
        ("chat", None, None),
    ],
)
def test_messages_number_a_drawn_row_as_its_file_does(smollm2_dir, kind, good, bad):
    labels = [good] * 20
    labels[14] = bad
    texts = {"token-classification": [("two", "words")] * 20, "chat": [CHAT] * 14 + [CHAT[:1]] + [CHAT] * 5}
    rows = pd.DataFrame({"text": pd.Series(texts.get(kind, ["a"] * 20), dtype=object), "label": labels})
    columns = COLUMNS.without_label() if kind == "chat" else COLUMNS
    head = "lm" if kind == "chat" else "own"
    task = Task(kind, str(smollm2_dir), head, columns, classes=("a", "b"), max_length=50)
    drawn = data.draw(rows, 18, 0, None, "t.csv")
    split = hold_out(len(drawn), None, 0, "t.csv")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    KINDS[kind].prepare_tokenizer(tokenizer)
    (part,) = (part for part in take(drawn, split) if 14 in part.index)
    assert part.index.get_loc(14) != 14
    with pytest.raises(InputError, match=r"t\.csv, row 15: "):
        KINDS[kind].encode(task, tokenizer, part, "t.csv")


def test_two_embeddings_of_a_sentence_encoder_are_compared_by_their_cosine(checkpoint):
    pairs = Columns("text", "other", "label")
    rows = table([0.0, 2.5, 5.0, 1.0]).assign(other="x")
    task = make_task(RunConfig(model=checkpoint(sentences=True)), "regression", pairs, rows)
    assert (task.pair, task.head, task.shift, task.scale) == ("separate", "cosine", 0.0, 5.0)
    joint = make_task(RunConfig(model=checkpoint(sentences=True), pair="joint"), "regression", pairs, rows)
    assert (joint.pair, joint.head, joint.shift) == ("joint", "mean", 2.125)
    assert joint.scale == pytest.approx(rows["label"].std(ddof=0))


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("classification", ["a"] * 4, "one class only, 'a'"),
        ("classification", list("abcd"), "4 different labels in 4 rows do not look like classes"),
        ("regression", [1.5] * 4, "every label in 'label' is 1.5"),
    ],
)
def test_labels_that_teach_nothing_are_refused(checkpoint, kind, labels, words):
    with pytest.raises(InputError, match=words):
        make_task(RunConfig(model=checkpoint(), train="t.csv"), kind, COLUMNS, table(labels))


def test_a_task_is_read_as_it_was_saved(tmp_path):
    task = Task("regression", "m", "cosine", Columns("a", "b", "ä"), pair="separate", shift=0.1, scale=1 / 3)
    task.save(tmp_path / "task.json")
    assert Task.load(tmp_path / "task.json") == task
