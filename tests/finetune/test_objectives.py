"""Training embeddings by pairs: the loss, what trains, the head that is fitted, and tasks that have no pairs."""

from __future__ import annotations

import pytest
import torch

from corefold.finetune import InputError, RunConfig, finetune, load_run
from corefold.finetune.callbacks import FitHead
from corefold.finetune.config import load_settings
from corefold.finetune.linear_head import TRAINED_STRENGTH
from corefold.finetune.objectives import pair_loss


def test_pairs_of_one_class_count_as_much_as_the_others():
    embeddings, labels = torch.randn(7, 5, dtype=torch.float64), torch.tensor([0, 0, 2, 1, 0, 2, 3])
    squares = {True: [], False: []}
    for row in range(7):
        for other in range(row):
            alike = bool(labels[row] == labels[other])
            cosine = torch.cosine_similarity(embeddings[row], embeddings[other], dim=0)
            squares[alike].append((cosine - float(alike)) ** 2)
    expected = sum(torch.stack(each).mean() for each in squares.values()) / 2
    torch.testing.assert_close(pair_loss(embeddings, labels), expected)
    assert torch.autograd.gradcheck(lambda x: pair_loss(x, labels), embeddings.requires_grad_())


@pytest.mark.parametrize("labels", [[1], [1, 1], [0, 1]])
def test_batches_without_some_kind_of_pair_have_a_gradient(labels):
    embeddings = torch.randn(len(labels), 4).requires_grad_()
    loss = pair_loss(embeddings, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("method", ["deep-lora", "lora", "full"])
def test_embeddings_train_and_the_head_is_fitted(prepared, method):
    run = prepared(method, objective="pairs", steps=20, **({} if method == "deep-lora" else {"lr": 3e-3}))
    trains = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert trains
    assert not any(name.startswith("head.") for name in trains)
    head = sum(parameter.numel() for parameter in run.model.head.parameters())
    assert run.trainable_parameters() == head + sum(
        p.numel() for p in run.model.parameters() if p.requires_grad
    )
    run.fit_head()
    frozen = run.evaluate()
    run.train()
    assert run.evaluate()["loss"] < frozen["loss"]
    fitted = run.fit_head()
    assert fitted.strength == TRAINED_STRENGTH
    torch.testing.assert_close(run.model.head.bias.detach().double(), torch.from_numpy(fitted.head.bias))


def test_the_bases_are_those_of_the_loss_of_pairs(prepared):
    states = []
    for objective in ("pairs", "cross-entropy"):
        run = prepared("deep-lora", objective=objective, steps=1, lr=1e-12)
        run.train()
        states.append({n: t.clone() for n, t in run.model.named_parameters() if "deeplora_left" in n})
    assert all(not torch.allclose(states[0][name], states[1][name]) for name in states[0])


def test_evaluations_on_the_way_use_a_head_that_fits(run_config, tmp_path):
    config = run_config("mean", objective="pairs", steps=20, width=8, rank=2)
    result = finetune(config, tmp_path / "whole", progress=False)
    assert result.config.objective == "pairs"
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert min(losses) < result.metrics["before"]["loss"]
    assert losses[-1] == pytest.approx(result.metrics["after"]["loss"], abs=1e-5)
    run = load_run(tmp_path / "whole")
    assert all(torch.isfinite(p).all() for p in run.model.head.parameters())


def test_a_stopped_run_ends_as_one_that_was_not(run_config, tmp_path, monkeypatch):
    settings = {"objective": "pairs", "steps": 12, "checkpoint_every": 4, "width": 8, "rank": 2}
    whole = finetune(run_config(**settings), tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(FitHead, "on_step_end", stop_at_ten)
        with pytest.raises(KeyboardInterrupt):
            finetune(run_config(**settings), tmp_path / "stopped", progress=False)
    stored = RunConfig(**load_settings(tmp_path / "stopped/config.yaml"))
    resumed = finetune(stored, tmp_path / "stopped", resume=True, progress=False)
    assert resumed.metrics["after"] == whole.metrics["after"]


def stop_at_ten(callback, args, state, control, **kwargs):
    if state.global_step == 10:
        raise KeyboardInterrupt


def test_every_row_judges(prepared):
    run = prepared("deep-lora", objective="pairs", steps=1, batch_size=20)
    assert len(run.data.eval) % 20
    assert len(run.outputs().labels) == len(run.data.eval)


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("deep-lora", "own", "this task is classification with head own"),
        ("deep-lora", "cosine", "this task is regression with head cosine"),
        ("head", "mean", "trains a head alone"),
    ],
)
def test_tasks_without_pairs_are_refused(prepared, method, kind, words):
    with pytest.raises(InputError, match=words):
        prepared(method, kind, objective="pairs")
