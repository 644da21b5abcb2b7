"""Many runs at once: each is the one that the library trains alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from corefold.adapters import initialize_bases
from corefold.finetune import RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.run_data import draw_rows, prepare_data, read_tables
from corefold.finetune.trainer import prepare
from reproduce.many import batched_training, initialization, runs
from reproduce.many.run import COLUMNS

STEPS = 6


@pytest.fixture(params=["trec"])
def setting(few_rows, request):
    """Two seeds of a set on the tiny encoder, in float32 and without dropout."""
    model = AutoModel.from_pretrained(few_rows[1], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    name = request.param
    data = {"train": f"{few_rows[3]}/{name}/train.csv", "eval": f"{few_rows[3]}/{name}/dev.csv"}
    config = RunConfig(
        model=str(few_rows[1]),
        **data,
        **COLUMNS[name],
        samples=10,
        steps=STEPS,
        eval_samples=20,
        width=6,
    )
    return runs.Setting(
        config, read_tables(config), batched_training.BatchedEncoder(model), torch.device("cpu"), (3, 4)
    )


def alone(setting, method, seed, **settings):
    """The library's own run, at the start of its training."""
    config = replace(setting.config, seed=seed, **settings)
    train, held_out = draw_rows(config, setting.tables)
    made = replace(METHODS[method], callbacks=lambda config, model: ())
    fit = prepare(
        prepare_data(config, setting.tables.task, train, held_out, made), Path(config.train).parent / "run"
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
def test_each_of_many_runs_is_the_library_s_own(setting, method, settings):
    fits = [alone(setting, method, seed, **settings) for seed in setting.seeds]
    q, p, bases = {}, {}, {}
    for name in setting.encoder.layers:
        layers = [fit.adapted.get_submodule(f"base_model.model.encoder.{name}") for fit in fits]
        if method == "lora":
            pairs = [(each.lora_A["default"].weight.mT, each.lora_B["default"].weight) for each in layers]
        else:
            cores = [each.update("default") for each in layers]
            pairs = [tuple(core.factors) for core in cores]
            bases[name] = tuple(
                torch.stack([getattr(c, side).detach() for c in cores]) for side in ("left", "right")
            )
        q[name], p[name] = (torch.stack([pair[i].detach().clone() for pair in pairs]) for i in (0, 1))
    updates = batched_training.BatchedUpdates(
        q, p, bases or None, 1.0 if bases else initialization.LORA_SCALE
    )
    drawn = setting.rows()
    decided = fits[0].data.settings
    rates = torch.full((2,), decided.lr)
    decays = torch.full((2,), decided.weight_decay)
    schedule = batched_training.Schedule(STEPS, rates, decays, decided.head_lr, runs.EPS[method])
    heads = drawn.heads.repeated(1)
    losses = batched_training.train(
        setting.encoder, updates, heads, drawn.texts, drawn.train, schedule, setting.seeds
    )
    assert (losses[-1] < losses[0]).all()
    scored = drawn.scored(
        batched_training.answers(setting.encoder, updates, heads, drawn.texts, drawn.judged, together=12)
    )
    for run_of, (fit, scores) in enumerate(zip(fits, scored, strict=True)):
        fit.train()
        logged = [entry["loss"] for entry in fit.trainer.state.log_history if "loss" in entry]
        assert losses[:, run_of].tolist() == pytest.approx(logged, rel=1e-4)
        own = fit.evaluate()
        assert scores["loss"] == pytest.approx(own["loss"], rel=1e-4)
        main = "accuracy" if "accuracy" in own else "pearson"
        assert scores[main] == pytest.approx(own[main], abs=1e-4)


def test_bases_are_the_eigenvectors_of_single_samples_gradients(setting):
    drawn, width = setting.rows(), 5
    found = initialization.fisher_bases(setting.encoder, drawn.heads, drawn.texts, drawn.train, width)
    name, layer = list(setting.encoder.layers.items())[-1]
    layer.base.weight.requires_grad_(True)
    for run_of, rows in enumerate(drawn.train):
        left = right = 0
        for row in rows:
            tokens, mask, labels = drawn.texts.batch(row.expand(2, 1))
            losses = drawn.heads.losses(setting.encoder.embed(tokens, mask), labels)
            (gradient,) = torch.autograd.grad(losses[run_of].sum(), layer.base.weight)
            left, right = left + gradient @ gradient.mT, right + gradient.mT @ gradient
        for square, basis in zip((left, right), found[name], strict=True):
            basis = basis[run_of]
            torch.testing.assert_close(basis.mT @ basis, torch.eye(width), atol=1e-5, rtol=0)
            most = torch.linalg.eigvalsh(square.double()).flip(0)[:width]
            kept = (basis.mT @ square @ basis).diagonal().double()
            assert kept.sum() > 0.999 * most.sum()


def test_a_narrower_run_beside_wider_ones_stays_itself(setting):
    drawn = setting.rows()
    ranks_and_widths = [(1, 4), (3, 6)]
    bases = initialization.fisher_bases(setting.encoder, drawn.heads, drawn.texts, drawn.train, 6)
    results = []
    for chosen in (ranks_and_widths, ranks_and_widths[:1]):
        together = drawn.repeated(len(chosen))
        updates = initialization.deep_start(chosen, setting.seeds, bases)
        rates, decays = (torch.full((2 * len(chosen),), each) for each in (0.05, 1.0))
        schedule = batched_training.Schedule(STEPS, rates, decays, 1e-3, 1e-6, batch=4)
        parts = (setting.encoder, updates, together.heads, together.texts)
        batched_training.train(*parts, together.train, schedule, [3, 4] * len(chosen))
        results.append(batched_training.answers(*parts, together.judged)[:2])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=0)


def test_a_core_that_is_not_narrow_is_refused(setting):
    bases = {"layer": (torch.zeros(1, 8, 4), torch.zeros(1, 8, 4))}
    with pytest.raises(ValueError, match="layer: rank 4 in bases of 4 is no narrow core"):
        initialization.deep_start([(4, 6)], [0], bases)


def test_lora_starts_as_peft_starts_it(setting):
    updates = initialization.lora_start([4], setting.seeds, setting.encoder)
    fit = alone(setting, "lora", 3, rank=4, lr=1e-3)
    for name, q in updates.q.items():
        theirs = fit.adapted.get_submodule(f"base_model.model.encoder.{name}").lora_A["default"].weight
        assert q.shape[1:] == theirs.mT.shape
        assert q.abs().max() <= theirs.shape[1] ** -0.5
        assert q.std() == pytest.approx(theirs.std().item(), rel=0.3)
        assert not updates.p[name].any()


def test_bases_see_as_many_rows_as_the_library_s(setting, monkeypatch):
    settings, passed = setting.settings_of(runs.deep(batch_size=2, rank=1)), []

    def spy(encoder, heads, texts, rows, width):
        passed.append(rows)
        return initialization.fisher_bases(encoder, heads, texts, rows, width)

    monkeypatch.setattr(runs, "fisher_bases", spy)
    drawn = setting.rows()
    runs.initial_updates(setting, drawn, "deep-lora", [settings])
    assert torch.equal(passed[0], drawn.train[:, :8]), "four batches of two"
