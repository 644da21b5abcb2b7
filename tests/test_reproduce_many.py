"""Many runs at once: each is what the library trains alone, and the table of them is what their cells say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModel

from test_reproduce import ROOT, _importable, few, run  # noqa: F401 - fixtures

STEPS = 6


@pytest.fixture
def many(_importable):  # noqa: F811
    """The modules, which only the repository's root makes importable."""
    from reproduce.many import engine, starts
    from reproduce.many import run as command

    return engine, starts, command


@pytest.fixture(params=["trec"])
def place(many, few, request):  # noqa: F811
    """Two seeds of a set on the tiny encoder, in float32 and without dropout."""
    from corefold.finetune import RunConfig
    from corefold.finetune.run_data import read_tables

    engine, _, command = many
    model = AutoModel.from_pretrained(few[1], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    name = request.param
    data = {"train": f"{few[3]}/{name}/train.csv", "eval": f"{few[3]}/{name}/dev.csv"}
    config = RunConfig(
        model=str(few[1]),
        **data,
        **command.COLUMNS[name],
        samples=10,
        steps=STEPS,
        eval_samples=20,
        width=6,
    )
    return command.Place(config, read_tables(config), engine.Body(model), torch.device("cpu"), (3, 4))


def alone(place, method, seed, **settings):
    """The library's own run, at the start of its training."""
    from pathlib import Path

    from corefold.adapters import initialize_bases
    from corefold.finetune.methods import METHODS
    from corefold.finetune.run_data import draw_rows, prepare_data
    from corefold.finetune.trainer import prepare

    config = replace(place.config, seed=seed, **settings)
    train, held_out = draw_rows(config, place.tables)
    made = replace(METHODS[method], callbacks=lambda config, model: ())
    fit = prepare(
        prepare_data(config, place.tables.task, train, held_out, made), Path(config.train).parent / "run"
    )
    for module in fit.model.modules():
        module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
    fit.adapted.config.attention_probs_dropout_prob = 0.0
    if method == "deep-lora":
        initialize_bases(fit.model, fit.trainer.get_train_dataloader(), progress=False)
    return fit


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("deep-lora", {"rank": 2}),
        ("deep-lora", {"rank": 2, "weight_decay": 30.0}),
        ("lora", {"rank": 3, "lr": 1e-2}),
    ],
)
def test_each_of_many_runs_is_the_library_s_own(many, place, method, settings):
    engine, starts, command = many
    fits = [alone(place, method, seed, **settings) for seed in place.seeds]
    q, p, bases = {}, {}, {}
    for name in place.body.layers:
        layers = [fit.adapted.get_submodule(f"base_model.model.encoder.{name}") for fit in fits]
        if method == "lora":
            pairs = [(each.lora_A["default"].weight.mT, each.lora_B["default"].weight) for each in layers]
        else:
            chains = [each.chain("default") for each in layers]
            pairs = [tuple(chain.factors) for chain in chains]
            bases[name] = tuple(
                torch.stack([getattr(c, side).detach() for c in chains]) for side in ("left", "right")
            )
        q[name], p[name] = (torch.stack([pair[i].detach().clone() for pair in pairs]) for i in (0, 1))
    updates = engine.Updates(q, p, bases or None, 1.0 if bases else starts.LORA_SCALE)
    drawn = place.drawn()
    config = fits[0].data.settings
    rates = torch.full((2,), config.lr)
    decays = torch.full((2,), config.weight_decay)
    pace = engine.Pace(STEPS, rates, decays, config.head_lr, command.EPS[method])
    heads = drawn.heads.repeated(1)
    losses = engine.train(place.body, updates, heads, drawn.texts, drawn.train, pace, place.seeds)
    assert (losses[-1] < losses[0]).all()
    scored = drawn.scored(engine.answers(place.body, updates, heads, drawn.texts, drawn.judged, together=12))
    for run_of, (fit, scores) in enumerate(zip(fits, scored, strict=True)):
        fit.train()
        logged = [entry["loss"] for entry in fit.trainer.state.log_history if "loss" in entry]
        assert losses[:, run_of].tolist() == pytest.approx(logged, rel=1e-4)
        own = fit.evaluate()
        assert scores["loss"] == pytest.approx(own["loss"], rel=1e-4)
        main = "accuracy" if "accuracy" in own else "pearson"
        assert scores[main] == pytest.approx(own[main], abs=1e-4)


def test_bases_are_the_eigenvectors_of_single_samples_gradients(many, place):
    drawn, width = place.drawn(), 5
    found = many[1].fisher_bases(place.body, drawn.heads, drawn.texts, drawn.train, width)
    name, layer = list(place.body.layers.items())[-1]
    layer.base.weight.requires_grad_(True)
    for run_of, rows in enumerate(drawn.train):
        left = right = 0
        for row in rows:
            tokens, mask, labels = drawn.texts.batch(row.expand(2, 1))
            losses = drawn.heads.losses(place.body.embed(tokens, mask), labels)
            (gradient,) = torch.autograd.grad(losses[run_of].sum(), layer.base.weight)
            left, right = left + gradient @ gradient.mT, right + gradient.mT @ gradient
        for square, basis in zip((left, right), found[name], strict=True):
            basis = basis[run_of]
            torch.testing.assert_close(basis.mT @ basis, torch.eye(width), atol=1e-5, rtol=0)
            most = torch.linalg.eigvalsh(square.double()).flip(0)[:width]
            kept = (basis.mT @ square @ basis).diagonal().double()
            assert kept.sum() > 0.999 * most.sum()


def test_a_narrower_run_beside_wider_ones_stays_itself(many, place):
    engine, starts, _ = many
    drawn = place.drawn()
    configs = [replace(place.config, rank=rank, width=width) for rank, width in ((1, 4), (3, 6))]
    bases = starts.fisher_bases(place.body, drawn.heads, drawn.texts, drawn.train, 6)
    results = []
    for chosen in (configs, configs[:1]):
        together = drawn.repeated(len(chosen))
        updates = starts.deep_start(chosen, place.seeds, bases)
        rates, decays = (torch.full((2 * len(chosen),), each) for each in (0.05, 1.0))
        pace = engine.Pace(STEPS, rates, decays, 1e-3, 1e-6, batch=4)
        engine.train(
            place.body, updates, together.heads, together.texts, together.train, pace, [3, 4] * len(chosen)
        )
        results.append(
            engine.answers(place.body, updates, together.heads, together.texts, together.judged)[:2]
        )
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=0)


def test_a_core_that_is_not_narrow_is_refused(many, place):
    bases = {"layer": (torch.zeros(1, 8, 4), torch.zeros(1, 8, 4))}
    with pytest.raises(ValueError, match="layer: rank 4 in bases of 4 is no narrow core"):
        many[1].deep_start([replace(place.config, rank=4)], [0], bases)


def test_lora_starts_as_peft_starts_it(many, place):
    config = replace(place.config, rank=4)
    updates = many[1].lora_start([config], place.seeds, place.body)
    fit = alone(place, "lora", 3, rank=4, lr=1e-3)
    for name, q in updates.q.items():
        theirs = fit.adapted.get_submodule(f"base_model.model.encoder.{name}").lora_A["default"].weight
        assert q.shape[1:] == theirs.mT.shape
        assert q.abs().max() <= theirs.shape[1] ** -0.5
        assert q.std() == pytest.approx(theirs.std().item(), rel=0.3)
        assert not updates.p[name].any()


def test_bases_see_as_many_rows_as_the_library_s(many, place, monkeypatch):
    _, starts, command = many
    config, seen = replace(place.config, batch_size=2, rank=1), []

    def spy(body, heads, texts, rows, width):
        seen.append(rows)
        return starts.fisher_bases(body, heads, texts, rows, width)

    monkeypatch.setattr(command, "fisher_bases", spy)
    drawn = place.drawn()
    command._start(place, drawn, "deep-lora", [config])
    assert torch.equal(seen[0], drawn.train[:, :8]), "four batches of two"


def test_many_runs_become_a_table(many, few, monkeypatch, tmp_path):  # noqa: F811
    command = many[2]
    monkeypatch.setattr("reproduce.many.run.JUDGED", 20)
    given = (*few, "--work", tmp_path / "work", "--samples", 10, 20, "--together", 4)
    run("reproduce.many.run", monkeypatch, *given, "--seeds", 1)
    run("reproduce.many.run", monkeypatch, *given)
    first = (tmp_path / "work/MiniLM-trec.jsonl").read_text()
    run("reproduce.many.run", monkeypatch, *given)
    assert (tmp_path / "work/MiniLM-trec.jsonl").read_text() == first, "a cell that was there was run again"
    run("reproduce.many.run", monkeypatch, *given, "--work", tmp_path / "other")
    assert not [*tmp_path.glob("other/*.jsonl")], "a cell of result.json was run again"
    result = json.loads((tmp_path / "result.json").read_text())
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
    assert [text for text, each in status.items() if each == "not run"] == [
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
    # Tuned alone, it trains on all rows at the rate it chose, and at no other.
    trained, calls = command._trained, []

    def spy(place, names, together, *, fifth=False):
        calls.append((fifth, *names))
        return trained(place, names, together, fifth=fifth)

    monkeypatch.setattr(command, "_trained", spy)
    alone = (*few, "--out", tmp_path / "alone", "--work", tmp_path / "alone", "--samples", 10, "--seeds", 1)
    run("reproduce.many.run", monkeypatch, *alone, "--sets", "trec", "--runs")
    (chosen,) = json.loads((tmp_path / "alone" / "result.json").read_text())["cells"].values()
    assert (chosen["run"], chosen["lr"]) == ("lora, tuned", tuned["lr"])
    assert calls == [(True, *command.TRIED), (False, f"lora, {named}")]
    assert chosen["score"] == tuned["score"]

    # A claim fails where its figure does.
    import importlib

    shown: Any = importlib.import_module("reproduce.many.shown")
    for cell in cells.values():
        cell["score"] = (
            0.5 + (cell["run"] == "deep-lora") * cell["seed"] / 10 + (cell["run"] == "deep-lora") / 10
        )
    assert {row["status"] for row in shown.claims(cells)[:7]} == {"agrees", "not run"}
    for cell in cells.values():
        cell["score"] -= 0.4 * (cell["run"] == "deep-lora")
    assert {row["status"] for row in shown.claims(cells)[:7]} == {"differs", "not run"}


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize(("reach", "status"), [(0.02, "agrees"), (0.05, "differs")])
def test_flat_is_a_third_of_lora_s_reach_on_the_set_s_own_cells(reach, status):
    from reproduce.many.shown import RATES, claims

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


@pytest.mark.usefixtures("_importable")
def test_the_file_of_many_runs_says_what_its_cells_say():
    from reproduce.common import _short
    from reproduce.many.shown import claims

    result = json.loads((ROOT / "reproduce" / "many" / "result.json").read_text())
    assert _short(claims(result["cells"])) == result["claims"]


@pytest.mark.usefixtures("_importable")
def test_the_search_is_drawn_from_its_file(tmp_path):
    from reproduce.defaults import searched

    told = searched.read()
    searched.figure(tmp_path / "search.svg", told)
    drawn = (tmp_path / "search.svg").read_text()
    assert drawn.count("<svg") == 1
    assert all(shape in drawn for shape in searched.SHAPES)
    worse = {name: dict(part) for name, part in told["parts"].items()}
    name = "rank 2, width 112, lr 0.0063"
    worse["third"][name] = {at: dict.fromkeys(found, 0.0) for at, found in worse["third"][name].items()}
    third = searched.tables({"parts": worse}).split("\n\n")[2]
    assert "-0.9" in third.splitlines()[-1]
