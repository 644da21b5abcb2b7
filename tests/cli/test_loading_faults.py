"""Models and settings that went wrong in silence: positions, padding, base models that moved, settings resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaModel

from command import Outcome, corefold, refused, write_csv
from grids import compare

SIDES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LONG = [("word " * 160 + text, label) for text, label in (("good", 1), ("bad", 0)) * 4]


def finetune(model: Path, table: Path, out: Path, *more: object) -> Outcome:
    return corefold(
        "finetune", "--model", model, "--train", table, "--eval", table, "--text", "text", "--label", "label",
        "--steps", 2, "--rank", 2, "--width", 4, "-o", out, *more,
    )  # fmt: skip


@pytest.fixture
def checkpoint(minilm_dir: Path, tmp_path: Path):
    """A function that saves a model with MiniLM's tokenizer, which knows no limit then."""

    def save(model, **changed: object) -> Path:
        model.save_pretrained(tmp_path / "model")
        AutoTokenizer.from_pretrained(minilm_dir, model_max_length=10**30, **changed).save_pretrained(
            tmp_path / "model"
        )
        return tmp_path / "model"

    return save


@pytest.fixture(scope="module")
def run(tiny: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    outcome = finetune(tiny, reviews, out)
    assert outcome.code == 0, outcome.err
    return out


def test_long_texts_are_cut_to_the_rows_of_a_table_that_begins_late(checkpoint, tmp_path):
    model = checkpoint(RobertaModel(RobertaConfig(max_position_embeddings=130, vocab_size=30522, **SIDES)))
    table = write_csv(tmp_path / "long.csv", ["text", "label"], LONG)
    outcome = finetune(model, table, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/task.json").read_text())["max_length"] == 128
    assert corefold("predict", tmp_path / "out", table, "-o", tmp_path / "p.csv").code == 0


def test_a_language_model_with_few_positions_predicts_after_long_prompts(checkpoint, tmp_path):
    sides = {"n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": 101, "eos_token_id": 102}
    model = checkpoint(
        GPT2LMHeadModel(GPT2Config(n_positions=40, vocab_size=30522, **sides)), eos_token="[SEP]"
    )
    table = write_csv(tmp_path / "long.csv", ["text", "label"], LONG)
    outcome = finetune(model, table, tmp_path / "out", "--task", "causal-lm")
    assert outcome.code == 0, outcome.err
    predict = ["predict", tmp_path / "out", table, "-o"]
    assert corefold(*predict, tmp_path / "p.csv", "--max-new-tokens", 20).code == 0
    outcome = corefold(*predict, tmp_path / "q.csv", "--max-new-tokens", 40)
    refused(outcome, "--max-new-tokens 40 leaves no room for a prompt; ", "has 40 positions")


def test_predictions_do_not_depend_on_the_batch_size(checkpoint, reviews, tmp_path):
    model = checkpoint(
        RobertaModel(RobertaConfig(max_position_embeddings=130, vocab_size=30522, **SIDES)),
        padding_side="left",
    )
    assert finetune(model, reviews, tmp_path / "out").code == 0
    found = []
    for size in (1, 7):
        assert (
            corefold(
                "predict", tmp_path / "out", reviews, "-o", tmp_path / f"{size}.csv", "--batch-size", size
            ).code
            == 0
        )
        found.append(pd.read_csv(tmp_path / f"{size}.csv")["probability"])
    pd.testing.assert_series_equal(*found, rtol=1e-5)


def test_a_base_model_that_moved_is_named_with_base(tiny, run, reviews, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run, out)
    task = json.loads((out / "task.json").read_text())
    assert task["base_digest"]
    # As after a move: the run names a folder that is no longer there.
    moved = tmp_path / "was/here"
    shutil.copytree(tiny, moved)
    assert finetune(moved, reviews, tmp_path / "of_moved").code == 0
    shutil.move(moved, tmp_path / "is_here")
    evaluate = ["evaluate", tmp_path / "of_moved", reviews]
    refused(
        corefold(*evaluate), f"the base model {moved} of", "is no longer there; name its place with --base"
    )
    assert corefold(*evaluate, "--base", tmp_path / "is_here").code == 0
    other = RobertaModel(RobertaConfig(vocab_size=30522, **SIDES))
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "other")
    refused(corefold(*evaluate, "--base", tmp_path / "other"), "is not the base model of this run")


def test_a_run_as_model_is_refused_and_from_goes_on(run, reviews, tmp_path):
    refused(
        finetune(run, reviews, tmp_path / "a"),
        "is the folder of a run, not a model; train its adapter on with",
    )
    refused(finetune(run / "lora", reviews, tmp_path / "b"), "is the folder of an adapter, not a model")
    outcome = corefold(
        "finetune", "--from", run, "--train", reviews, "--eval", reviews, "--steps", 2, "-o", tmp_path / "c"
    )
    assert outcome.code == 0, outcome.err
    refused(
        corefold("finetune", "--from", tmp_path, "--train", reviews, "-o", tmp_path / "d"),
        "--from",
        "no config.yaml",
    )


def test_resume_takes_a_setting_again_that_needs_another(tiny, reviews, run, tmp_path):
    square = tmp_path / "square"
    assert finetune(tiny, reviews, square, "--width", 0, "--depth", 3).code == 0
    outcome = corefold("finetune", "--resume", "-o", square, "--depth", 3)
    assert outcome.code == 0, outcome.err
    refused(corefold("finetune", "--resume", "-o", square, "--depth", 4), "depth is 3, not 4")
    refused(corefold("finetune", "--resume", "-o", run, "--depth", 3), "--depth 3 needs a square core")


def test_tuned_settings_are_checked_together(grid):
    refused(
        compare(grid, "--tune", "deep-lora.depth=2,3", "--tune", "lora.lr=1e-3,1e-4"),
        "--depth 3 needs a square core",
    )
    outcome = compare(
        {**grid, "--methods": "deep-lora"}, "--width", 0, "--tune", "deep-lora.depth=2,3", steps=2
    )
    assert outcome.code == 0, outcome.err


def test_memory_options_leave_the_run_what_it_is(tiny, reviews, run, tmp_path):
    outcome = finetune(tiny, reviews, tmp_path / "out", "--gradient-checkpointing")
    assert outcome.code == 0, outcome.err
    first, second = (
        json.loads((out / "metrics.json").read_text())["after"] for out in (run, tmp_path / "out")
    )
    assert second == pytest.approx(first, rel=1e-4)
    outcome = finetune(tiny, reviews, tmp_path / "parts", "--batch-size", 4, "--grad-accum", 4)
    assert outcome.code == 0, outcome.err
    third = json.loads((tmp_path / "parts/metrics.json").read_text())["after"]
    assert third == pytest.approx(first, rel=0.05)


def test_excluded_layers_have_no_adapter(tiny, reviews, tmp_path):
    assert finetune(tiny, reviews, tmp_path / "out", "--exclude-modules", "query, key").code == 0
    assert finetune(tiny, reviews, tmp_path / "re", "--exclude-modules", r".*\.layer\.1\..*").code == 0
    shown = [corefold("inspect", tmp_path / name).out for name in ("out", "re")]
    assert "value" in shown[0]
    assert "query" not in shown[0]
    assert "layer.0" in shown[1]
    assert "layer.1" not in shown[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--exclude-modules", "query,qery"], ["--exclude-modules query,qery leaves out nothing", "qery"]),
        (["--exclude-modules", "(query"], ["no regular expression"]),
        (["--target-modules", "(query"], ["--target-modules (query"]),
        (["--revision", "v2"], ["--revision v2 is of models on the hub"]),
    ],
)
def test_options_that_would_change_nothing_are_refused(tiny, reviews, tmp_path, options, words):
    refused(finetune(tiny, reviews, tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_a_base_in_four_bits_trains_and_predicts(tiny, reviews, tmp_path):
    pytest.importorskip("bitsandbytes")
    outcome = finetune(tiny, reviews, tmp_path / "out", "--load-in-4bit", "--head", "own")
    assert outcome.code == 0, outcome.err
    task = json.loads((tmp_path / "out/task.json").read_text())
    assert task["load_in_4bit"]
    after = json.loads((tmp_path / "out/metrics.json").read_text())["after"]
    outcome = corefold("evaluate", tmp_path / "out", reviews, "--json", tmp_path / "scores.json")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"] == after["accuracy"]


def test_inspect_reads_convolutions_and_refuses_dora(tmp_path):
    from peft import LoraConfig, get_peft_model

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)
            self.dense = torch.nn.Linear(8, 4)

        def forward(self, x):
            return self.dense(self.conv(x).mean((2, 3)))

    get_peft_model(Net(), LoraConfig(r=2, target_modules=["conv", "dense"])).save_pretrained(
        tmp_path / "lora"
    )
    outcome = corefold("inspect", tmp_path / "lora")
    assert outcome.code == 0, outcome.err
    assert "8 x 27" in outcome.out
    dora = LoraConfig(r=2, target_modules=["dense"], use_dora=True)
    get_peft_model(Net(), dora).save_pretrained(tmp_path / "dora")
    refused(corefold("inspect", tmp_path / "dora"), "a DoRA adapter")


def test_a_base_in_four_bits_is_merged_in_all_of_its_bits(tiny, reviews, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForSequenceClassification

    assert finetune(tiny, reviews, tmp_path / "out", "--load-in-4bit", "--head", "own").code == 0
    outcome = corefold("merge", tmp_path / "out", "-o", tmp_path / "merged")
    assert outcome.code == 0, outcome.err
    assert "training saw the base model in 4 bits" in outcome.out
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    base = AutoModelForSequenceClassification.from_pretrained(tiny).bert.state_dict()
    key = "encoder.layer.0.attention.self.key.weight"
    change = torch.linalg.svdvals(merged.bert.state_dict()[key] - base[key])
    assert change[1] > 1e-3 * change[0]
    assert change[2] < 1e-4 * change[0]  # the update has rank 2; rounding to 4 bits has none
