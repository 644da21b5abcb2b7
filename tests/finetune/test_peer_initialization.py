"""Where LoRA-GA, LoRA-One, EVA and AdaLoRA start, against singular vectors and penalties computed directly."""

from __future__ import annotations

import pytest
import torch
from adalora_penalty import penalty
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from command import write_jsonl
from corefold.finetune.peer_initialization import lora_layers
from corefold.finetune.trainer import TrainingRun


def test_a_head_around_adalora_adds_its_penalty_in_training_only(prepared):
    fit = prepared("adalora", "mean")
    batch = next(iter(fit.trainer.get_train_dataloader()))
    plain = fit.model.eval()(**batch).loss
    training = fit.model.train()(**batch).loss
    assert (training - plain).item() == pytest.approx(penalty("adalora", "own", fit), rel=1e-4)


def test_lora_ga_starts_along_the_gradient_and_eva_along_the_inputs(prepared):
    lora_ga = _first_layer(prepared("lora-ga", "mean"))
    plain = prepared("full", "mean")
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
    lora_one = _first_layer(prepared("lora-one", "mean"))
    product = lora_one.lora_B["default"].weight @ lora_one.lora_A["default"].weight
    best = u[:, :3] * s[:3] @ vh[:3] / s[0]
    torch.testing.assert_close(product.detach(), -best * 32**0.5 / 128, rtol=0, atol=1e-3 * 32**0.5 / 128)
    rows = []
    eva = prepared("eva", "mean", rank=2)
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


def test_lora_one_trains_its_head_at_the_head_s_rate_and_its_pairs_preconditioned(prepared):
    fit = prepared("lora-one", "mean", lr=1e-4, head_lr=1e-2)
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


def test_adalora_ends_at_its_ranks(prepared):
    fit = prepared("adalora", "mean", steps=20)
    fit.train()
    ranks = sum(int((p != 0).sum()) for key, p in fit.adapted.named_parameters() if ".lora_E." in key)
    assert ranks <= 3 * 12 < 5 * 12  # It began with five a layer.


def _first_layer(fit: TrainingRun):
    return fit.adapted.base_model.model.encoder.layer[0].attention.self.query


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest cosine of the principal angles between two column spaces."""
    a, b = (torch.linalg.qr(each.detach())[0] for each in (a, b))
    return float(torch.linalg.svdvals(a.T @ b).min())


def test_eva_reads_the_inputs_of_texts_with_several_labels(prepared, tmp_path):
    rows = [{"text": f"a text {i}", "label": ["a", "b"][i % 2 :]} for i in range(8)]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    prepared("eva", "own", task="multi-label", train=str(table), eval=str(table))


def test_lora_one_starts_in_weights_that_lie_the_other_way_round(prepared, tiny, tmp_path):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=30522, pad_token_id=0, n_positions=32)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "gpt2")
    settings = {"model": str(tmp_path / "gpt2"), "target_modules": "c_attn"}
    layer, plain = (
        lora_layers(prepared("lora-one", "own", **settings).adapted)[0],
        prepared("full", "own", **settings),
    )
    plain.model.eval()
    for batch in plain.trainer.get_train_dataloader():
        plain.model(**batch).loss.backward()
    gradient = plain.adapted.transformer.h[0].attn.c_attn.weight.grad.mT
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    step = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    best = u[:, :3] * s[:3] @ vh[:3] / s[0]
    torch.testing.assert_close(step.detach(), -best * 96**0.5 / 128, rtol=0, atol=1e-3 * 96**0.5 / 128)
