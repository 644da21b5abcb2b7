"""Conversations through the command line: learned by TRL's trainer, predicted, judged and merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import corefold, refused

TALKS = [("red", "stop"), ("green", "go"), ("amber", "wait")] * 2


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    rows = [
        {"id": f"0{place}", "messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for place, (a, b) in enumerate(TALKS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_column_of_messages_is_learned_predicted_and_judged(language_model, talks, tmp_path):
    out = tmp_path / "out"
    outcome = corefold(
        "finetune", "--model", language_model, "--train", talks, "--eval", talks, "--steps", 15, "--rank", 4,
        "--lr", 0.1, "-o", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "note: task chat: 'messages' holds lists of messages; --task changes that" in outcome.err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["after"]["perplexity"] < metrics["before"]["perplexity"] / 1.5
    assert corefold("predict", out, talks, "-o", tmp_path / "p.jsonl", "--max-new-tokens", 4).code == 0
    answers = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["id"] for row in answers] == [f"0{place}" for place in range(len(TALKS))]
    assert answers[0]["messages"][0] == {"role": "user", "content": "red"}
    assert all(isinstance(row["prediction"], str) for row in answers)
    outcome = corefold("evaluate", out, talks, "--json", tmp_path / "scores.json")
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["perplexity"] == pytest.approx(metrics["after"]["perplexity"], rel=1e-4)


def test_a_conversation_without_roles_is_refused(language_model, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"messages": [{"content": "hi"}]}\n' * 6)
    outcome = corefold("finetune", "--model", language_model, "--train", path, "-o", tmp_path / "out")
    refused(
        outcome, "t.jsonl, row 1: column 'messages' holds no conversation of texts; expected a list such as"
    )
