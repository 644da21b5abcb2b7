"""Updates, defaults and texts: the runs of tiny models, and claims that fail where their figures do."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.shared.results import read
from command import write_csv
from models import tiny_llama
from reproduce.defaults import run as defaults
from reproduce.defaults.variants import VARIANTS, SharedMomentAdam
from reproduce.e2e import claims as texts
from reproduce.e2e import run as e2e
from reproduce.updates import claims as updates
from reproduce.updates import run as updates_run


def test_updates_are_counted_layer_by_layer_and_losses_step_by_step(
    run_main, few_rows, monkeypatch, tmp_path
):
    monkeypatch.setitem(updates.FORMS, updates.WIDE, {**updates.FORMS[updates.WIDE], "rank": 8})
    model, data = few_rows[1], few_rows[3]
    small = ("--samples", 10, "--judged", 10, "--steps", 4, "--seeds", 1, "--out", tmp_path)
    run_main(updates_run, "--model", model, "--data", data, *small)
    result = read(tmp_path / "result.json")
    cells = result["cells"]
    assert len(cells) == len(updates.FORMS)
    for cell in cells.values():
        assert len(cell["layers"]) == len(cell["ranks"]) > 0
        assert [step for step, _ in cell["losses"]] == [1, 2, 3, 4]
    assert all(row["status"] != "not run" for row in result["claims"])
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1

    # A claim fails where its figure does.
    low, high = f"{updates.COMPRESSED}, seed=0", "LoRA, rank 8, seed=0"
    for key, cell in cells.items():
        cell["ranks"] = [1 + ("LoRA, rank" in key[:10]) for _ in cell["ranks"]]
        cell["losses"] = [[step, 1 / step + (updates.NARROW in key)] for step, _ in cell["losses"]]
    assert [row["status"] for row in updates.claims(cells)] == ["agrees"] * 6
    cells[low]["ranks"], cells[high]["ranks"] = cells[high]["ranks"], cells[low]["ranks"]
    cells[low]["losses"] = [[step, 3.0] for step, _ in cells[low]["losses"]]
    assert [row["status"] for row in updates.claims(cells)] == [
        *("differs", "agrees") * 2,
        "differs",
        "differs",
    ]


def test_the_search_for_defaults_goes_on_and_says_what_it_did_not_run(
    run_main, few_rows, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(defaults, "JUDGED_ROWS", {"stsb": 10, "trec": 10})
    slow, fast = "LoRA, lr 0.001", "LoRA, lr 0.001, fast head"
    means, shared = (
        f"single samples through class means, width {width}, {rest}"
        for width, rest in ((16, "lr 0.01"), (8, "shared moment, lr 0.01"))
    )
    kept = "single samples, from class means, width 8, lr 0.01"
    names = [slow, fast, means, shared, kept, "single samples, width 16, lr 0.01"]
    for _ in range(2):
        run_main(defaults, *few_rows, "--seeds", 1, "--only", *names)
    assert capsys.readouterr().out.count(f"{slow}, trec 10, seed=0:") == 1
    result = read(tmp_path / "result.json")
    assert len(result["cells"]) == 2 * len(names)
    assert all(cell["norm"] > 0 for key, cell in result["cells"].items() if "single" in key)
    assert {row["status"] for row in result["claims"]} == {"not run"}  # no claim is about ten rows
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    assert VARIANTS[shared].shared


def test_a_step_of_the_shared_moment_turns_with_the_basis():
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    moved = []
    for basis in (torch.eye(4), turn):
        p = torch.nn.Parameter(torch.zeros(4, 4))
        optimizer = SharedMomentAdam([{"params": [p], "lr": 0.1, "shared": True}], eps=1e-12)
        for scale in (1.0, 3.0, -0.5):
            p.grad = scale * basis @ torch.arange(16.0).reshape(4, 4)
            optimizer.step()
        moved.append(p.detach().clone())
    torch.testing.assert_close(turn @ moved[0], moved[1], rtol=1e-5, atol=1e-6)


def test_texts_are_written_from_data_and_judged_by_three_metrics(
    run_main, monkeypatch, tmp_path, capsys, minilm_dir
):
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    tokenizer.eos_token = tokenizer.sep_token
    model = tiny_llama(vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    rows = [(f"name : {name}", f"{name} is {kind}") for name in ("a", "b", "c") for kind in ("cheap", "good")]
    for part in ("train", "dev"):
        (tmp_path / "e2e").mkdir(exist_ok=True)
        write_csv(tmp_path / "e2e" / f"{part}.csv", ["meaning", "target"], rows * 2)
    judged = []

    def scores(written, references):
        judged.append(references)
        return dict.fromkeys(texts.METRICS, float(len(written)))

    monkeypatch.setattr(e2e, "scores", scores)
    monkeypatch.setattr(e2e, "MAX_TOKENS", 3)
    for _ in range(2):
        run_main(e2e, "--model", tmp_path / "model", "--data", tmp_path, "--samples", 4,
            "--seeds", 2, "--judged", 2, "--steps", 2, "--out", tmp_path / "out")  # fmt: skip
    assert capsys.readouterr().out.count("untouched: ") == 3, "a cell that was there was run again"
    result = read(tmp_path / "out" / "result.json")
    cells = result["cells"]
    assert len(cells) == len(judged) == 3 * 2 + 1
    assert all(len(each) == 4 for references in judged for each in references)  # every reference of a meaning
    assert [row["status"] for row in result["claims"]] == ["agrees", "agrees"]
    assert "<svg" in (tmp_path / "out" / "figure.svg").read_text()
    for cell in cells.values():
        if cell["form"] == texts.OURS:
            cell["scores"]["BLEU"] -= 4
    assert [row["status"] for row in texts.claims(cells)] == ["differs", "differs"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # about METEOR's process
def test_the_metrics_of_texts_know_a_perfect_one():
    for package in ("sacrebleu", "rouge_score", "pycocoevalcap"):
        pytest.importorskip(package)
    text = "there is a cheap place in the city centre called alimentum"
    found = e2e.scores([text], [["something else", text]])
    assert found["BLEU"] == pytest.approx(100)
    assert found["ROUGE-L"] == pytest.approx(100)
    assert found["METEOR"] > 95
