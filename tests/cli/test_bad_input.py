"""Bad input to every command: one line that says what is wrong, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command import Outcome, corefold, refused, write_csv

pytestmark = pytest.mark.usefixtures("unrendered")
COMMANDS = ["finetune", "compare", "predict", "evaluate", "inspect", "export", "merge", "demo", "complete"]


@pytest.fixture
def arguments(minilm_dir: Path, reviews: Path, tmp_path: Path) -> dict[str, object]:
    return {
        "--model": minilm_dir,
        "--train": reviews,
        "--eval": reviews,
        "--text": "text",
        "--label": "label",
        "--steps": 2,
        "-o": tmp_path / "out",
    }


def finetune(arguments: dict[str, object], *flags: str, **changed: object) -> Outcome:
    given = {**arguments, **{"--" + name.replace("_", "-"): value for name, value in changed.items()}}
    return corefold(
        "finetune", *(part for pair in given.items() if pair[1] is not None for part in pair), *flags
    )


def test_every_command_has_help_with_an_example():
    for command in COMMANDS:
        outcome = corefold(command, "--help")
        assert outcome.code == 0
        assert "Example:" in outcome.out
        assert f"corefold {command}" in outcome.out


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": "review"}, ["no column 'review'", "text, label"]),
        ({"label": "stars"}, ["no column 'stars'"]),
        ({"label": None}, ["--label"]),
        ({"model": "no/such-model-here"}, ["no/such-model-here", "cannot be loaded"]),
        ({"model": None}, ["--model"]),
        ({"model": "/no/such/folder"}, ["/no/such/folder", "cannot be loaded"]),
        ({"tracker": "nosuch"}, ["--tracker", "nosuch"]),
        ({"train": "nowhere.csv"}, ["nowhere.csv", "no such file"]),
        ({"train": "nobody/nothing:train"}, ["nobody/nothing:train"]),
        ({"eval": "nowhere.csv"}, ["nowhere.csv"]),
        ({"rank": 4096}, ["4096", "384"]),
        ({"rank": 4096, "method": "lora"}, ["4096"]),
        ({"rank": 0}, ["--rank", "at least 1"]),
        ({"depth": 3}, ["--depth 3", "--width 0"]),
        ({"width": -1}, ["--width", "at least 0"]),
        ({"lr": 0}, ["--lr", "positive"]),
        ({"weight_decay": -1}, ["--weight-decay", "0 or positive", "-1"]),
        ({"weight_decay": "nan"}, ["--weight-decay", "0 or positive", "nan"]),
        ({"basis_lr_ratio": "inf"}, ["--basis-lr-ratio", "0 or positive", "inf"]),
        ({"samples": 100000}, ["100000", "32"]),
        ({"pair": "separate", "head": "own", "text_pair": "text"}, ["--head mean"]),
        ({"target_modules": "nothing_like_it"}, ["nothing_like_it"]),
        ({"task": "regression"}, ["not a finite number"]),
    ],
)
def test_finetune_refuses(arguments, changed, words):
    refused(finetune(arguments, **changed), *words)
    assert not Path(str(arguments["-o"])).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("text,label\n", ["no rows"]),
        ("text,label\ngood,1\nbad,1\nugly,1\n", ["one class only", "'1'"]),
        ("text,label\ngood,1\n,0\nbad,0\nso,1\n", ["row 2", "'text' is empty"]),
        ("text,label\ngood,1\nbad,0\nso,\nbad,0\ngood,1\n", ["row 3", "'label' is empty"]),
        ('text,label\n"good,1\n', ["line 2", "closed nowhere"]),
        ("text,label\nso , so,1\nbad , bad,0\n", ["more cells than the header", "quote"]),
        ("text,label\na,x\nb,y\nc,z\n", ["do not look like classes"]),
    ],
)
def test_finetune_refuses_a_table(arguments, tmp_path, content, words):
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    refused(finetune(arguments, train=path), "bad.csv", *words)
    assert not Path(str(arguments["-o"])).exists()


def test_finetune_refuses_a_class_that_training_has_never_seen(arguments, tmp_path):
    other = write_csv(tmp_path / "other.csv", ["text", "label"], [["fine", "pos"], ["odd", "mixed"]])
    refused(finetune(arguments, eval=other), "row 2", "'mixed'", "never occurs")


def test_finetune_refuses_a_constant_number(arguments, tmp_path):
    path = write_csv(tmp_path / "same.csv", ["text", "label"], [["a", 1.5], ["b", 1.5], ["c", 1.5]])
    refused(finetune(arguments, train=path, task="regression"), "every label", "1.5")


def test_finetune_stops_at_a_loss_that_is_not_finite(arguments):
    refused(finetune(arguments, lr=1e30, head_lr=1e30, steps=20), "loss is", "lower --lr")


def test_finetune_keeps_its_hands_off_a_folder_that_is_not_empty(arguments, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    refused(finetune({**arguments, "-o": out}), "not empty", "--overwrite")
    assert (out / "thesis.txt").read_text() == "all my work"
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "checkpoints").mkdir()
    (out / "checkpoints/mine.pt").write_text("weeks of training")
    assert finetune({**arguments, "-o": out}, "--overwrite").code == 0
    assert (out / "thesis.txt").read_text() == "all my work"
    assert (out / "checkpoints/mine.pt").read_text() == "weeks of training"
    assert (out / "adapter_model.safetensors").exists()


def test_finetune_refuses_settings_that_do_not_exist(arguments, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("rnak: 4\n")
    refused(finetune(arguments, config=path), "unknown setting 'rnak'")
    path.write_text("rank: many\n")
    refused(finetune(arguments, config=path), "--rank", "'many'")
    path.write_text("- rank\n")
    refused(finetune(arguments, config=path), "name: value")
    refused(finetune(arguments, config=tmp_path / "none.yaml"), "none.yaml")


def test_resume_refuses_an_empty_folder_and_other_settings(arguments, finished):
    refused(corefold("finetune", "--resume", "-o", arguments["-o"]), "no run to resume")
    refused(corefold("finetune", "--resume", "-o", finished, "--steps", 21), "steps is 20, not 21")


def _commands_on(run: Path, reviews: Path, tmp_path: Path) -> list[Outcome]:
    return [
        corefold("predict", run, reviews, "-o", tmp_path / "p.csv"),
        corefold("evaluate", run, reviews),
        corefold("inspect", run),
        corefold("export", run, "-o", tmp_path / "lora"),
        corefold("merge", run, "-o", tmp_path / "merged"),
    ]


def test_a_truncated_adapter_is_refused_by_every_command(finished, reviews, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    weights = run / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for outcome in _commands_on(run, reviews, tmp_path):
        refused(outcome, "adapter_model.safetensors", "SHA-256")
    (run / "manifest.json").unlink()  # an adapter made in Python has none
    for outcome in _commands_on(run, reviews, tmp_path):
        refused(outcome, "adapter_model.safetensors", "cut or broken")
    assert not (tmp_path / "p.csv").exists()
    assert not (tmp_path / "merged").exists()


def test_a_tampered_adapter_is_refused_by_every_command(finished, reviews, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    tensors = load_file(run / "adapter_model.safetensors")
    name = next(key for key in tensors if key.endswith("deeplora_factors"))
    save_file({**tensors, name: tensors[name] + 1}, run / "adapter_model.safetensors")
    for outcome in _commands_on(run, reviews, tmp_path):
        refused(outcome, "adapter_model.safetensors", "SHA-256")


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_an_adapter_with_a_wrong_tensor_is_refused_by_name(finished, tmp_path, damage):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "manifest.json").unlink()
    tensors = load_file(run / "adapter_model.safetensors")
    name = next(key for key in tensors if key.endswith("query.deeplora_left"))
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(384, 5)
    save_file(tensors, run / "adapter_model.safetensors")
    refused(corefold("inspect", run), name.rpartition(".")[0])
    refused(corefold("export", run, "-o", tmp_path / "lora"), name.rpartition(".")[0])


def test_an_adapter_that_is_not_finite_or_a_cut_manifest_is_refused(finished, reviews, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    for outcome in _commands_on(run, reviews, tmp_path):
        refused(outcome, "manifest.json", "cut or broken")
    manifest.unlink()
    tensors = load_file(run / "adapter_model.safetensors")
    name = next(key for key in tensors if key.endswith("deeplora_factors"))
    save_file({**tensors, name: tensors[name] * float("nan")}, run / "adapter_model.safetensors")
    for outcome in _commands_on(run, reviews, tmp_path):
        refused(outcome, name, "not finite")


def test_an_adapter_is_not_replaced_by_its_own_export_or_merge(finished):
    before = (finished / "adapter_model.safetensors").read_bytes()
    for command in ("export", "merge"):
        refused(corefold(command, finished, "-o", finished, "--overwrite"), "must name another folder")
    assert (finished / "adapter_model.safetensors").read_bytes() == before


def test_an_output_under_a_file_is_refused(arguments, reviews):
    refused(finetune({**arguments, "-o": reviews / "out"}), "reviews.csv")


def test_words_that_pandas_takes_for_missing_are_classes(arguments, tmp_path):
    rows = [("good", "None"), ("bad", "NA"), ("fine", "None"), ("poor", "NA")]
    table = write_csv(tmp_path / "na.csv", ["text", "label"], rows)
    outcome = finetune(arguments, train=table, eval=table)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/task.json").read_text())["classes"] == ["NA", "None"]


def test_a_missing_head_or_changed_task_is_refused(finished, reviews, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "head.safetensors").unlink()
    refused(corefold("evaluate", run, reviews), "head.safetensors is missing")
    shutil.copy(finished / "head.safetensors", run)
    task = json.loads((run / "task.json").read_text())
    (run / "task.json").write_text(json.dumps({**task, "classes": ["pos", "neg"]}))
    refused(corefold("evaluate", run, reviews), "task.json", "SHA-256")


def test_outputs_are_not_overwritten(finished, reviews, tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("mine")
    refused(corefold("predict", finished, reviews, "-o", kept), "exists", "--overwrite")
    refused(corefold("predict", finished, reviews, "-o", tmp_path / "p.txt"), ".csv")
    refused(corefold("predict", finished, reviews, "-o", tmp_path / "no" / "p.csv"), "no such folder")
    refused(corefold("export", finished, "-o", tmp_path), "not empty")
    refused(corefold("merge", finished, "-o", tmp_path), "not empty")
    refused(corefold("merge", finished, "-o", kept), "is a file")
    refused(corefold("inspect", finished, "--plot", kept), ".html")
    assert kept.read_text() == "mine"


def test_commands_refuse_a_folder_that_holds_no_run(reviews, tmp_path):
    for outcome in _commands_on(tmp_path / "nothing", reviews, tmp_path):
        refused(outcome, "no such folder")
    (tmp_path / "empty").mkdir()
    for outcome in _commands_on(tmp_path / "empty", reviews, tmp_path):
        refused(outcome, "no adapter")


def test_predict_refuses_a_table_without_the_text(finished, tmp_path):
    other = write_csv(tmp_path / "other.csv", ["body"], [["fine"]])
    refused(corefold("predict", finished, other, "-o", tmp_path / "p.csv"), "no column 'text'", "body")
    taken = write_csv(tmp_path / "taken.csv", ["text", "prediction"], [["fine", 1]])
    refused(
        corefold("predict", finished, taken, "-o", tmp_path / "p.csv"), "already has a column 'prediction'"
    )


def test_export_refuses_a_wrong_tolerance_and_a_lora(finished, tmp_path):
    refused(corefold("export", finished, "-o", tmp_path / "x", "--tolerance", 1.5), "--tolerance", "1.5")
    refused(corefold("export", finished / "lora", "-o", tmp_path / "x"), "needs no export")


def test_adapters_that_are_no_plain_lora_are_called_by_their_name(tiny, tmp_path):
    from peft import AdaLoraConfig, LoraConfig, get_peft_model
    from transformers import AutoModel

    usual = {"r": 2, "target_modules": ["query"]}
    dora, adalora = (
        LoraConfig(use_dora=True, **usual),
        AdaLoraConfig(total_step=9, tinit=1, tfinal=1, target_modules=["query"]),
    )
    for name, config in (("DoRA", dora), ("ADALORA", adalora)):
        get_peft_model(AutoModel.from_pretrained(tiny), config).save_pretrained(tmp_path / name)
        words = f"a {name} adapter"
        refused(corefold("inspect", tmp_path / name), words, "expected Deep LoRA or LoRA")
        refused(corefold("export", tmp_path / name, "-o", tmp_path / "x"), words, "corefold merge")


def test_usage_errors_end_with_2_too():
    assert corefold("finetune", "--rank", "many", "-o", "x").code == 2
    assert corefold("fine-tune").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "a", "b", "-o", "c.csv", "--batch-size", 0], ["--batch-size"]),
        (["evaluate", "a", "b", "--batch-size", "many"], ["--batch-size"]),
        (["compare", "--seeds", 0, "-o", "c"], ["--seeds"]),
        (["finetune", "--rank", "1.5", "-o", "c"], ["--rank"]),
        (["finetune", "--no-such"], ["--no-such"]),
        (["merge"], ["Missing argument"]),
        (["train"], ["'train'"]),
    ],
)
def test_usage_errors_take_one_line(arguments, words):
    outcome = corefold(*arguments)
    refused(outcome, *words)
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
