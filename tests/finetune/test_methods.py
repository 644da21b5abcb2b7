"""Each method on each kind of task: it starts as the untouched model, trains what it says, and learns."""

from __future__ import annotations

import gc

import pytest
import torch

from command import write_csv, write_reviews
from corefold.adapters import BasesCallback
from corefold.finetune import InputError, RunConfig
from corefold.finetune.fitting import Fit, prepare
from corefold.finetune.methods import METHODS
from corefold.finetune.problem import decided, draw_rows, encoded, read_tables

PAIRS = [("a man eats", "a man is eating", 5), ("a dog runs", "a car stops", 0.5), ("it rains", "rain falls", 4),
         ("she sings", "he sleeps", 1), ("a cat sits", "a cat is sitting", 4.5), ("snow", "a hot day", 0)]  # fmt: skip
CASES = [
    *((name, "mean") for name, method in METHODS.items() if method.trains),
    *((name, "own") for name in ("eva", "lora-ga", "lora-one", "adalora", "vera", "full", "head")),
    *((name, "cosine") for name in ("eva", "lora-ga", "lora-one", "full", "head")),
]


@pytest.fixture
def fitted(tiny, tmp_path):
    """A function that prepares a fit of a method on a kind of task."""

    def make(name: str, kind: str, **settings) -> Fit:
        if kind == "cosine":
            table = write_csv(tmp_path / "pairs.csv", ["text", "other", "label"], PAIRS * 2)
            settings |= {"text_pair": "other", "pair": "separate"}
        else:
            table = write_reviews(tmp_path / "reviews.csv")
            settings |= {"head": kind}
        config = RunConfig(
            model=str(tiny), train=str(table), eval=str(table), text="text", label="label",
            **{"steps": 8, "rank": 3, "batch_size": 8, "max_length": 16, **settings},
        )  # fmt: skip
        tables, method = read_tables(config), METHODS[name]
        train, held_out = draw_rows(config, tables)
        config = decided(config, tables.task, len(train), method)
        return prepare(encoded(config, tables.task, train, held_out), method, tmp_path / "out")

    return make


@pytest.fixture(autouse=True, scope="module")
def _light_collection():
    gc.freeze()  # Trainer collects before it trains, and all that is imported would be half a second of it
    yield
    gc.unfreeze()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_starts_as_the_untouched_model_and_learns(fitted, name, kind):
    if (name, kind) == ("head", "cosine"):
        with pytest.raises(InputError, match="has none"):
            fitted(name, kind)
        return
    untouched = fitted("full", kind).evaluate()
    fit = fitted(name, kind, **({"lr": 3e-3} if METHODS[name].peft is None else {}))
    began = {key: p.detach().clone() for key, p in fit.model.named_parameters()}
    before = fit.evaluate()
    if name != "lora-one":  # which begins one step down the gradient, of a length of its own
        assert before["loss"] - _penalty(name, kind, fit) == pytest.approx(untouched["loss"], abs=1e-4)
    fit.train()
    assert fit.evaluate()["loss"] < before["loss"]
    bases = ("deeplora_left", "deeplora_right")  # which a callback sets
    moved = {key for key, p in fit.model.named_parameters() if not torch.equal(p, began[key])}
    moved = {key for key in moved if not any(base in key for base in bases)}
    trains = {key for key, p in fit.model.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trains
    if name != "full":
        assert sum(began[key].numel() for key in trains) == fit.trainable_parameters() < 60_000


def _penalty(name, kind, fit):
    """PEFT adds AdaLoRA's penalty in evaluation too; a loss of our own has it in training only."""
    if name != "adalora" or kind != "own":
        return 0.0
    tensors = [
        p.detach() for key, p in fit.adapted.named_parameters() if ".lora_A." in key or ".lora_B." in key
    ]
    grams = [min(p @ p.T, p.T @ p, key=len) for p in tensors]
    return 0.5 * float(torch.stack([(gram - torch.eye(len(gram))).norm() for gram in grams]).mean())


def test_a_head_around_adalora_adds_its_penalty_in_training_only(fitted):
    fit = fitted("adalora", "mean")
    batch = next(iter(fit.trainer.get_train_dataloader()))
    plain = fit.model.eval()(**batch).loss
    training = fit.model.train()(**batch).loss
    assert (training - plain).item() == pytest.approx(_penalty("adalora", "own", fit), rel=1e-4)


def test_lora_ga_starts_along_the_gradient_and_eva_along_the_inputs(fitted):
    lora_ga = _first_layer(fitted("lora-ga", "mean"))
    plain = fitted("full", "mean")
    for parameter in plain.model.parameters():
        parameter.requires_grad_(True)
    # LoRA-GA's B holds left singular vectors r to 2r of the gradient, and A right ones 0 to r, of the batches that
    # it saw; all 32 rows here.
    batches = list(plain.trainer.get_train_dataloader())
    assert len(batches) == 4
    plain.model.eval()
    for batch in batches:
        (plain.model(**batch).loss / 4).backward()
    gradient = plain.adapted.encoder.layer[0].attention.self.query.weight.grad
    u, s, vh = torch.linalg.svd(gradient)
    assert _overlap(lora_ga.lora_A["default"].weight.T, vh[:3].T) > 0.98
    assert _overlap(lora_ga.lora_B["default"].weight, u[:, 3:6]) > 0.9
    # LoRA-One's pair is the gradient's best approximation of that rank, downhill and of norm out^(1/2) / 128.
    lora_one = _first_layer(fitted("lora-one", "mean"))
    product = lora_one.lora_B["default"].weight @ lora_one.lora_A["default"].weight
    best = u[:, :3] * s[:3] @ vh[:3] / s[0]
    torch.testing.assert_close(product.detach(), -best * 32**0.5 / 128, rtol=0, atol=1e-3 * 32**0.5 / 128)
    rows = []
    eva = fitted("eva", "mean", rank=2)
    hook = plain.adapted.encoder.layer[0].attention.self.query.register_forward_pre_hook(
        lambda layer, given: rows.append(given[0].detach().reshape(-1, 32))
    )
    for batch in batches:
        parts = {name: tensor[:, :3] for name, tensor in batch["first"].items()}  # no padding within
        plain.adapted(**parts)
    hook.remove()
    known = _first_layer(eva).lora_A["default"].weight.T
    inputs = torch.cat(rows)
    best = torch.linalg.svd(inputs - inputs.mean(0))[2][: known.shape[1]].T
    random = torch.linalg.qr(torch.randn(32, known.shape[1], generator=torch.Generator().manual_seed(0)))[0]
    captured = (inputs @ known).square().sum()
    assert captured > 2 * (inputs @ random).square().sum()
    assert captured <= (inputs @ best).square().sum() * 1.5


def test_lora_one_trains_its_head_at_the_head_s_rate_and_its_pairs_preconditioned(fitted):
    fit = fitted("lora-one", "mean", lr=1e-4, head_lr=1e-2)
    optimizer = fit.trainer.optimizer
    body, head = optimizer.param_groups
    assert (body["lr"], head["lr"]) == (1e-4, 1e-2)
    assert {id(p) for p in head["params"]} == {id(p) for p in fit.model.head.parameters()}
    layer = _first_layer(fit)
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    expected = torch.linalg.solve(b.detach().mT @ b.detach() + 1e-6 * torch.eye(len(a)), torch.ones_like(a))
    optimizer.step()
    torch.testing.assert_close(a.grad, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("deep-lora", {"steps": 160}, 3.0),
        ("deep-lora", {"weight_decay": 0.5}, 0.5),
        ("deep-lora", {"weight_decay": 0}, 0.0),
        ("deep-lora", {"width": 0}, 0.0),
        ("deep-lora", {"steps": 161}, 0.0),
        ("deep-lora", {"kind": "cosine"}, 0.0),
        ("deep-lora", {"kind": "cosine", "weight_decay": 0.5}, 0.5),
        ("lora", {}, 0.0),
        ("lora", {"weight_decay": 0.5}, 0.5),
        ("lora-one", {"weight_decay": 0.5}, 0.5),
    ],
)
def test_weight_decay_shrinks_the_adapter_and_never_the_head(fitted, method, given, expected):
    fit = fitted(method, **{"kind": "mean", **given})
    assert fit.problem.config.weight_decay == expected
    own = {id(p) for name, p in fit.model.named_parameters() if name.startswith("head.")}
    assert bool(own) == (given.get("kind") != "cosine")
    before = {p: p.detach().clone() for group in fit.trainer.optimizer.param_groups for p in group["params"]}
    for p in before:
        p.grad = torch.zeros_like(p)
    fit.trainer.optimizer.step()
    for p, was in before.items():
        kept = 1.0 if id(p) in own else 1 - fit.problem.config.lr * expected
        torch.testing.assert_close(p.detach(), was * kept)


@pytest.mark.parametrize(
    ("kind", "given", "times"),
    [
        ("mean", {}, 2),
        ("own", {}, 2),
        ("mean", {"weight_decay": 0}, 1),
        ("mean", {"weight_decay": 2.9}, 1),
        ("mean", {"weight_decay": 5}, 2),
        ("cosine", {"weight_decay": 3}, 0.25),
        ("mean", {"weight_decay": 3, "steps": 320}, 0.5**1.3),
    ],
)
def test_a_core_that_decays_under_a_head_goes_twice_as_fast(fitted, kind, given, times):
    problem = fitted("deep-lora", kind, **{"rank": 2, "width": 8, "steps": 160, **given}).problem
    passes = 160 * 8 / len(problem.rows.train)
    assert problem.config.lr == pytest.approx(times * 0.025 / (2 * passes) ** 0.5)


def _first_layer(fit: Fit):
    return fit.adapted.base_model.model.encoder.layer[0].attention.self.query


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest cosine of the principal angles between two column spaces."""
    a, b = (torch.linalg.qr(each.detach())[0] for each in (a, b))
    return float(torch.linalg.svdvals(a.T @ b).min())


def test_long_runs_go_slower_and_read_their_bases_off_more_batches(fitted):
    found = {}
    for steps in (80, 160, 640):
        fit = fitted("deep-lora", "mean", rank=2, width=8, steps=steps)
        (callback,) = (
            each for each in fit.trainer.callback_handler.callbacks if isinstance(each, BasesCallback)
        )
        found[steps] = fit.problem.config.lr, callback.num_batches
    assert found[80][0] == pytest.approx(2**0.5 * found[160][0]), "twice the passes over the same rows"
    assert found[160][0] == pytest.approx(2 * 2 * 4**0.8 * found[640][0]), (
        "four times the passes, as much longer, and no decay"
    )
    assert [batches for _, batches in found.values()] == [4, 4, 16]


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("deep-lora", {"steps": 160}, (2, 112)),
        ("deep-lora", {"steps": 161}, (4, 56)),
        ("deep-lora", {"steps": 161, "rank": 4}, (4, 56)),
        ("deep-lora", {"steps": 160, "rank": 4}, (4, 112)),
        ("deep-lora", {"steps": 161, "rank": 2}, (2, 112)),
        ("deep-lora", {"steps": 161, "rank": 8}, (8, 112)),
        ("deep-lora", {"steps": 161, "width": 4}, (2, 4)),
        ("deep-lora", {"steps": 161, "width": 0}, (2, 0)),
        ("lora", {"steps": 161}, (2, None)),
    ],
)
def test_a_long_run_has_more_directions_in_narrower_bases_unless_told(fitted, method, given, expected):
    problem = fitted(method, "mean", **{"rank": None, **given}).problem
    config = problem.config
    assert (config.rank, config.width) == expected
    if expected == (4, 56):
        passes = config.steps * config.batch_size / len(problem.rows.train)
        assert config.lr == pytest.approx(0.025 / (4 * passes) ** 0.5 / (161 / 160) ** 0.8)


def test_adalora_ends_at_its_ranks(fitted):
    fit = fitted("adalora", "mean", steps=20)
    fit.train()
    ranks = sum(int((p != 0).sum()) for key, p in fit.adapted.named_parameters() if ".lora_E." in key)
    assert ranks <= 3 * 12 < 5 * 12  # of five a layer that it began with


@pytest.mark.parametrize("name", ["vera", "eva"])
def test_an_adapter_wider_than_the_model_is_refused(fitted, name):
    with pytest.raises(InputError, match="r=65 exceeds"):
        fitted(name, "mean", rank=65)
