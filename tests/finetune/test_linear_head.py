"""Linear heads fitted to embeddings: their optimum, the strength that rows left out choose, and rare classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV, Ridge
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from corefold.finetune import InputError
from corefold.finetune.linear_head import STRENGTHS, _splits, fit_head, logistic, logistic_of_each, ridge
from corefold.finetune.tasks.classification import Classification

RNG = np.random.default_rng(0)
FEATURES = 7 * RNG.normal(size=(90, 12))
DIRECTIONS = RNG.normal(size=(12, 3))


def classes(noise):
    return (FEATURES @ DIRECTIONS + noise * RNG.normal(size=(90, 3))).argmax(1)


def of_three(features, labels, strength):
    return logistic(features, labels, 3, strength, balanced=False)


@pytest.mark.parametrize("labels", [classes(1.0), classes(15.0)])
def test_the_strength_is_that_of_scikit_learns_cross_validation(labels):
    found = fit_head(FEATURES, labels, of_three, cross_entropy, seed=0)
    scaled = FEATURES / np.sqrt(np.mean(np.sum(FEATURES**2, 1)))
    searched = LogisticRegressionCV(
        Cs=STRENGTHS[: len(found.losses)],
        cv=5,
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    ).fit(scaled, labels)
    place = {strength: index for index, strength in enumerate(found.losses)}
    assert abs(place[found.strength] - place[float(searched.C_)]) <= 1
    assert found.losses[found.strength] == min(found.losses.values())
    alone = of_three(scaled, labels, found.strength)
    np.testing.assert_allclose(found.head(FEATURES), alone(scaled), rtol=1e-10, atol=1e-12)


def test_noise_gets_a_stronger_penalty():
    sure, unsure = (fit_head(FEATURES, classes(noise), of_three, cross_entropy, 0) for noise in (1.0, 60.0))
    assert unsure.strength < sure.strength / 10


def test_classes_without_rows_are_as_likely_as_one_row():
    labels = np.where(classes(1.0) == 2, 3, classes(1.0))
    head = logistic(FEATURES / 30, labels, 5, 0.1, balanced=False)
    probabilities = torch.from_numpy(head(FEATURES / 30)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities[:, [2, 4]].mean(0), 1 / 92, rtol=0.2)


def test_balanced_classes_count_the_same():
    labels = np.repeat([0, 1], [80, 10])
    plain, balanced = (logistic(FEATURES, labels, 2, 1e-6, balanced=each) for each in (False, True))
    assert abs(np.diff(balanced.bias)) < 0.1
    np.testing.assert_allclose(np.diff(plain.bias), np.log(10 / 80), atol=0.1)


def test_each_label_has_a_regression_of_its_own():
    targets = np.stack([classes(1.0) == 0, classes(1.0) == 1, np.zeros(90), np.ones(90)], 1).astype(float)
    found = fit_head(FEATURES, targets, logistic_of_each, binary_cross_entropy_with_logits, 0)
    probabilities = 1 / (1 + np.exp(-found.head(FEATURES)))
    assert ((probabilities > 0.5) == targets).mean() > 0.95
    np.testing.assert_allclose(probabilities[:, 2:], [[0.5 / 91, 90.5 / 91]] * 90)


def test_numbers_have_ridge_regression():
    numbers = FEATURES @ DIRECTIONS[:, 0] + 5
    found = fit_head(FEATURES, numbers, ridge, lambda outputs, labels: mse_loss(outputs[:, 0], labels), 0)
    np.testing.assert_allclose(found.head(FEATURES)[:, 0], numbers, atol=0.5)
    scale = np.sqrt(np.mean(np.sum(FEATURES**2, 1)))
    expected = Ridge(alpha=1 / found.strength).fit(FEATURES / scale, numbers).predict(FEATURES / scale)
    np.testing.assert_allclose(found.head(FEATURES)[:, 0], expected)


def test_rows_too_few_for_folds_have_a_usual_strength():
    found = fit_head(FEATURES[:4], np.array([0, 0, 1, 2]), of_three, cross_entropy, 0)
    assert (found.strength, found.losses) == (1.0, {})
    one = fit_head(FEATURES[:6], np.ones(6, dtype=int), of_three, cross_entropy, 0)
    assert (one.head(FEATURES[:6]).argmax(1) == 1).all()


def test_classes_of_few_rows_are_in_all_folds():
    labels = np.arange(18) % 6
    found = fit_head(
        FEATURES[:18], labels, lambda x, y, c: logistic(x, y, 6, c, balanced=False), cross_entropy, 0
    )
    assert len(found.losses) > 2
    for kept, left_out in _splits(np.repeat([0, 1], [10, 5]), seed=0):
        assert sorted([*kept, *left_out]) == list(range(15))
        assert np.bincount(np.repeat([0, 1], [10, 5])[left_out]).tolist() == [2, 1]


def test_a_run_gets_the_head_that_its_embeddings_have(prepared):
    run = prepared("embeddings", "mean")
    before = run.evaluate()["loss"]
    run.train()
    assert run.evaluate()["loss"] < before
    found = run.fit_head()
    torch.testing.assert_close(
        run.model.head.weight.detach().double(), torch.from_numpy(found.head.weight), rtol=1e-4, atol=1e-6
    )
    assert run.trainer.state.global_step == 0


def test_the_strength_of_balanced_classes_is_chosen_by_the_plain_loss(prepared, monkeypatch):
    """By the weighted one a class of one row chose 1,000 for all, where 30 is best."""
    run = prepared("embeddings", "mean", class_weight="balanced")

    def weighted(*args):
        raise AssertionError("the weighted loss")

    monkeypatch.setattr(Classification, "weighted_loss", weighted)
    assert run.fit_head().losses


@pytest.mark.parametrize("given", [{"keep": "best"}, {"patience": 2}])
def test_there_is_no_step_to_choose(prepared, given):
    with pytest.raises(InputError, match="choose a step, and embeddings takes none"):
        prepared("embeddings", "mean", **given)


@pytest.mark.parametrize("head", ["own", "cosine"])
def test_a_model_without_a_new_head_is_refused(prepared, head):
    with pytest.raises(InputError, match=r"and this task .* has none"):
        prepared("embeddings", head)
