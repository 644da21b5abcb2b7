"""What users lose or are told wrongly: folders over each other, rows without words, cut checkpoints, odd labels."""

from __future__ import annotations

import json
import shutil

import pytest

from command import corefold, refused, write_csv, write_jsonl


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "t.csv", ["text", "label"], [(f"a text {i}", i % 2) for i in range(12)])


def test_nothing_is_written_over_a_base_model_or_the_run_that_goes_on(tiny, two_classes, table, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    before = sorted((path.name, path.read_bytes()) for path in base.iterdir())
    common = ["--train", table, "--eval", table, "--text", "text", "--label", "label", "--steps", 1]
    outcome = corefold("finetune", "--model", base, *common, "-o", base, "--overwrite")
    refused(outcome, "is the folder of --model, which would be lost")
    run = tmp_path / "run"
    assert corefold("finetune", "--model", base, *common, "--rank", 1, "--width", 2, "-o", run).code == 0
    refused(corefold("merge", run, "-o", base, "--overwrite"), "holds the base model of")
    outcome = corefold("finetune", "--from", run, *common, "-o", run, "--overwrite")
    refused(outcome, "is the folder of --from, which would be lost")
    assert sorted((path.name, path.read_bytes()) for path in base.iterdir()) == before
    assert corefold("evaluate", run, table).code == 0


def test_an_option_that_the_run_fixes_is_refused_even_if_it_is_a_default(two_classes, table, tmp_path):
    common = ["--from", two_classes, "--train", table, "-o", tmp_path / "out"]
    refused(corefold("finetune", *common, "--method", "deep-lora"), "keeps --method lora", "got deep-lora")
    settings = tmp_path / "settings.yaml"
    settings.write_text("method: deep-lora\nrank: 7\n")
    outcome = corefold("finetune", *common, "--config", settings)
    refused(outcome, "keeps --method lora", "got deep-lora")
    outcome = corefold(
        "compare", "--config", settings, "--model", "m", "--train", "no.csv", "-o", tmp_path / "b"
    )
    refused(outcome, "no.csv")
    assert "note: " + str(settings) + ": compare takes no method, rank from a file" in outcome.err


@pytest.mark.parametrize("gap", [None, []])
def test_rows_without_words_get_no_tags(tiny, tmp_path, gap):
    rows = [{"tokens": ["New", "words"], "tags": ["B-x", "O"]}] * 6
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    outcome = corefold(
        "finetune", "--model", tiny, "--train", train, "--eval", train, "--text", "tokens", "--label", "tags",
        "--steps", 1, "--rank", 1, "--method", "lora", "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    new = write_jsonl(tmp_path / "new.jsonl", [{"tokens": ["a", "b"]}, {"tokens": gap}, {"tokens": ["c"]}])
    outcome = corefold("predict", tmp_path / "out", new, "-o", tmp_path / "p.jsonl")
    assert outcome.code == 0, outcome.err
    assert "1 rows without text have no prediction (row 2)" in outcome.err
    found = rows_of(tmp_path / "p.jsonl")
    assert [row["prediction"] and len(row["prediction"]) for row in found] == [2, None, 1]
    assert found[1]["tokens"] == gap


def test_a_cut_checkpoint_is_passed_over(tmp_path):
    import torch
    from safetensors.torch import save_file

    from corefold.finetune.folder import last_checkpoint

    for step in (1, 2, 3):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"a": torch.ones(3)}, folder / name)
        save_file({"a": torch.ones(50)}, folder / "model.safetensors")
    for name, step in (("model.safetensors", 3), ("optimizer.pt", 2)):
        path = tmp_path / f"checkpoint-{step}" / name
        path.write_bytes(path.read_bytes()[:-20])
    assert last_checkpoint(tmp_path, 9) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1e308", "-1e308", "0"], "so large that their spread is none"),
        (
            ["1,5", "2,5", "3,5"],
            "'1,5' in column 'label' is not a finite number; write numbers with a decimal point",
        ),
    ],
)
def test_numbers_that_cannot_be_learned_are_refused(tiny, tmp_path, labels, words):
    rows = [(f"a text {i}", label) for i, label in enumerate(labels * 4)]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    outcome = corefold(
        "finetune", "--model", tiny, "--train", table, "--text", "text", "--label", "label", "--task", "regression",
        "-o", tmp_path / "out",
    )  # fmt: skip
    refused(outcome, words)


def test_an_integer_of_hundreds_of_digits_is_no_finite_number(tiny, tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text("".join(f'{{"text": "a {i}", "label": 1{"0" * 400}}}\n' for i in range(6)))
    outcome = corefold(
        "finetune", "--model", tiny, "--train", table, "--text", "text", "--label", "label", "--task", "regression",
        "-o", tmp_path / "out",
    )  # fmt: skip
    refused(outcome, "t.jsonl, row 1", "is not a finite number")


def test_deep_json_and_a_link_to_itself_end_in_one_line(two_classes, table, tmp_path):
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"text": "hi", "d": ' + "[" * 50_000 + "]" * 50_000 + "}\n")
    refused(corefold("predict", two_classes, deep, "-o", tmp_path / "p.jsonl"), "deep.jsonl")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    outcome = corefold("predict", two_classes, table, "-o", tmp_path / "loop.csv")
    refused(outcome, "loop.csv")


@pytest.mark.parametrize("options", [["--patience", 1], ["--keep", "best"], ["--folds", 2, "--keep", "best"]])
def test_too_few_rows_to_choose_a_step_are_said_by_that_option(tiny, tmp_path, options):
    rows = [(f"a text {i}", i % 2) for i in range(6)]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    arguments = [
        "--model",
        tiny,
        "--train",
        table,
        "--text",
        "text",
        "--label",
        "label",
        "-o",
        tmp_path / "out",
    ]
    refused(corefold("finetune", *arguments, *options), "--keep best and --patience hold out a fifth")
    assert not (tmp_path / "out").exists()


def test_three_rows_are_classes_if_the_user_says_so(tiny, tmp_path):
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [("a", "x"), ("b", "y"), ("c", "x")])
    arguments = ["--model", tiny, "--train", table, "--eval", table, "--text", "text", "--label", "label",
                 "--steps", 1, "--rank", 1, "--method", "lora"]  # fmt: skip
    refused(corefold("finetune", *arguments, "-o", tmp_path / "a"), "do not look like classes")
    outcome = corefold("finetune", *arguments, "--task", "classification", "-o", tmp_path / "b")
    assert outcome.code == 0, outcome.err


def test_weights_of_classes_need_classes(tiny, tmp_path):
    rows = [(f"a text {i}", f"{i}.5") for i in range(8)]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    outcome = corefold(
        "finetune", "--model", tiny, "--train", table, "--eval", table, "--text", "text", "--label", "label",
        "--class-weight", "balanced", "-o", tmp_path / "out",
    )  # fmt: skip
    refused(outcome, "error: --class-weight balanced weighs the classes")
