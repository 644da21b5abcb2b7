"""The table of many runs is that of their cells, and cells that are there are not run again."""

from __future__ import annotations

import pytest

from benchmarks.shared.results import read
from reproduce.many import run as command
from reproduce.many.claims import RATES, claims

NOT_RUN = [
    *(f"The same on {rows} rows: within 0.005 on average, behind nowhere" for rows in ("256", "1,024")),
    "Ahead of itself at half the rate and without weight decay, an earlier default",
    *(
        f"Less overfitted than without weight decay on {rows} rows: minus the loss elsewhere"
        for rows in (16, 64, 256)
    ),
    *(
        f"Less overfitted than the tuned LoRA on {rows} rows: minus the loss elsewhere"
        for rows in ("16", "64", "256", "1,024")
    ),
    *(f"MPNet-base, {samples} rows, against LoRA tuned in the same way" for samples in (16, 64, 256)),
    *(f"Flat in the rank: question types, {samples} rows" for samples in (16, 256)),
    *(
        f"Flat over a decade of learning rates: {name}, 64 rows"
        for name in ("sentence pairs", "question types", "film sentiment", "film reviews")
    ),
]


def test_many_runs_become_a_table(run_main, few_rows, monkeypatch, tmp_path):
    monkeypatch.setattr("reproduce.many.run.JUDGED_ROWS", 20)
    arguments = (*few_rows, "--work", tmp_path / "work", "--samples", 10, 20, "--together", 4)
    run_main(command, *arguments, "--seeds", 1)
    run_main(command, *arguments)
    first = (tmp_path / "work/MiniLM-trec.jsonl").read_text()
    run_main(command, *arguments)
    assert (tmp_path / "work/MiniLM-trec.jsonl").read_text() == first, "a cell that was there was run again"
    run_main(command, *arguments, "--work", tmp_path / "other")
    assert not [*tmp_path.glob("other/*.jsonl")], "a cell of result.json was run again"
    result = read(tmp_path / "result.json")
    cells = result["cells"]
    assert len(cells) == len(first.splitlines()) + len(
        (tmp_path / "work/MiniLM-stsb.jsonl").read_text().splitlines()
    )
    assert {cell["run"] for cell in cells.values() if cell["set"] == "stsb"} == {
        "deep-lora", "lora, 1e-4", "lora, 2e-4", "lora, 3e-4", "lora, 1e-3", "lora, tuned", "untouched"}  # fmt: skip
    tuned = cells["lora, tuned, MiniLM, trec 10, seed=0"]
    assert [each["lr"] for each in tuned["tries"]] == [1e-4, 3e-4, 1e-3]
    named = {1e-4: "1e-4", 3e-4: "3e-4", 1e-3: "1e-3"}[tuned["lr"]]
    assert tuned["score"] == cells[f"lora, {named}, MiniLM, trec 10, seed=0"]["score"]
    ours = cells["deep-lora, MiniLM, trec 10, seed=0"]  # ten steps of 16 rows are sixteen passes over ten
    assert ours["lr"] == pytest.approx(0.05 / (2 * 16) ** 0.5, rel=1e-5)
    status = {row["claim"]: row["status"] for row in result["claims"]}
    assert [text for text, each in status.items() if each == "not run"] == NOT_RUN
    assert_claims_follow(cells)


def assert_claims_follow(cells):
    """A claim fails where its figure does."""
    for cell in cells.values():
        cell["score"] = (
            0.5 + (cell["run"] == "deep-lora") * cell["seed"] / 10 + (cell["run"] == "deep-lora") / 10
        )
    assert {row["status"] for row in claims(cells)[:7]} == {"agrees", "not run"}
    for cell in cells.values():
        cell["score"] -= 0.4 * (cell["run"] == "deep-lora")
    assert {row["status"] for row in claims(cells)[:7]} == {"differs", "not run"}


def test_tuned_alone_it_trains_on_all_rows_at_the_chosen_rate_and_at_no_other(
    run_main, few_rows, monkeypatch, tmp_path
):
    monkeypatch.setattr("reproduce.many.run.JUDGED_ROWS", 20)
    trained, calls = command.trained, []

    def spy(setting, names, together, *, fifth=False):
        calls.append((fifth, *names))
        return trained(setting, names, together, fifth=fifth)

    monkeypatch.setattr(command, "trained", spy)
    short = (*few_rows, "--samples", 10, "--seeds", 1, "--sets", "trec")
    folder = tmp_path / "alone"
    run_main(command, *short, "--out", folder, "--work", folder, "--runs")
    (chosen,) = read(folder / "result.json")["cells"].values()
    named = {1e-4: "1e-4", 3e-4: "3e-4", 1e-3: "1e-3"}[chosen["lr"]]
    assert chosen["run"] == "lora, tuned"
    assert calls == [(True, *command.TRIED), (False, f"lora, {named}")]
    # With the other runs beside it, it comes to the same.
    run_main(command, *short, "--work", tmp_path / "beside")
    tuned = read(tmp_path / "result.json")["cells"]["lora, tuned, MiniLM, trec 10, seed=0"]
    assert (tuned["lr"], tuned["score"]) == (chosen["lr"], chosen["score"])


@pytest.mark.parametrize(("reach", "status"), [(0.02, "agrees"), (0.05, "differs")])
def test_flat_is_a_third_of_lora_s_reach_on_the_set_s_own_cells(reach, status):
    def cell(run, at, seed):
        best = at in (1, 3e-4)
        return {
            "run": run, "set": "sst2", "samples": 64, "seed": seed, "base": "MiniLM", "loss": 0.5, "main": "accuracy",
            "score": seed / 10 + (reach if run.startswith("deep") else 0.1) * best, "seconds_in_all": 1.0,
            "machine": {"processor": "", "threads": 1, "device": "cpu"}, "versions": {"torch": ""},
        }  # fmt: skip

    cells = [cell(run, at, seed) for runs in RATES.values() for at, run in runs.items() for seed in range(3)]
    rows = {row["claim"]: row for row in claims({str(place): each for place, each in enumerate(cells)})}
    assert rows["Flat over a decade of learning rates: film sentiment, 64 rows"]["status"] == status
    assert rows["Flat over a decade of learning rates: film reviews, 64 rows"]["status"] == "not run"
