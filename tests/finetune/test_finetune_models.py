"""The models of a run: what is adapted, what trains, and what an encoder with a head computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from torch import nn

from corefold.finetune import InputError
from corefold.finetune.loading import load_base, load_tokenizer
from corefold.finetune.models import EncoderModel, build, head_of
from corefold.finetune.run_data import draw_rows, prepare_data, read_tables


@pytest.fixture
def built(run_config):
    """A function that builds the models of a method for a kind of head."""
    from corefold.finetune.methods import METHODS

    def make(method, kind="mean", **settings):
        config = run_config(kind, **settings)
        tables = read_tables(config)
        data = prepare_data(config, tables.task, *draw_rows(config, tables), METHODS[method])
        return data, *build(data.task, data.settings)[:2]

    return make


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["mean", "own", "cosine"])
def test_parts_without_adapter_train_as_the_method_says(built, kind):
    for method in ("full", "head", "untouched"):
        if (method, kind) in (("head", "cosine"), ("untouched", "mean"), ("untouched", "own")):
            continue
        data, adapted, model = built(method, kind)
        assert (adapted is model) == (kind == "own")
        head = {id(p) for p in head_of(model, data.task)}
        assert bool(head) == (kind != "cosine")
        names = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
        assert head <= {*names.values()}
        assert bool({*names.values()} - head) == (method == "full")
        assert not any("pooler" in name for name in names) or kind == "own"


def test_adapters_leave_pooler_and_head_alone(built):
    _, adapted, model = built("deep-lora", "mean", width=8)
    assert isinstance(adapted, PeftModel)
    assert isinstance(model, EncoderModel)
    layers = adapted.base_model.adapted_layers()
    assert len(layers) == 12
    assert not any("pooler" in name for name in layers)
    _, adapted, _ = built("lora", "own")
    assert any("modules_to_save" in name for name in trained(adapted))
    assert not any("classifier.lora" in name for name, _ in adapted.named_parameters())


def test_names_of_layers_may_be_listed_or_matched(built):
    for targets, count in (("query, value", 4), (r".*layer\.1\..*\.key", 1)):
        _, adapted, _ = built("lora", target_modules=targets)
        assert sum("lora_A" in name for name in trained(adapted)) == count
    with pytest.raises(InputError, match="--target-modules nothing"):
        built("lora", target_modules="nothing")


def test_new_heads_are_drawn_by_the_seed(built):
    first, same, other = (built("full", seed=seed)[2].head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["mean", "cosine"])
def test_an_encoder_pools_the_mean_of_its_tokens(built, kind):
    data, adapted, model = built("full", kind)
    tokenizer = load_tokenizer(data.task.model)
    texts = [["a joy", "a dull and long film"], ["b", "c d e"]]
    batches = [dict(tokenizer(each, padding=True, return_tensors="pt")) for each in texts]
    with torch.no_grad():
        means = []
        for each in texts:
            alone = [
                adapted(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in each
            ]
            means.append(torch.cat(alone))
        labels = torch.tensor([1, 0]) if kind == "mean" else torch.tensor([0.25, 0.5])
        if kind == "mean":
            expected = model.head(means[0])
            loss = nn.functional.cross_entropy(expected, labels)
            output = model(batches[0], labels=labels)
        else:
            expected = torch.cosine_similarity(*means)
            loss = (expected - labels).square().mean()
            output = model(*batches, labels=labels)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, loss, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_is_as_small_as_adapter_and_head(built):
    _, _adapted, model = built("lora")
    state = model.state_dict()
    assert {*state} == set(trained(model))
    other = built("lora", seed=1)[2]
    other.load_state_dict(state)
    assert torch.equal(other.head.weight, model.head.weight)


def test_a_single_text_needs_a_head(built):
    _, _, model = built("full", "cosine")
    with pytest.raises(InputError, match="a single text needs a head"):
        model(dict(load_tokenizer(model.task.model)("a", return_tensors="pt")))


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path, built):
    data, *_ = built("full")
    from dataclasses import replace

    with pytest.raises(InputError, match="cannot be loaded") as refused:
        load_base(replace(data.task, model=str(tmp_path / "nothing")))
    assert "\n" not in str(refused.value)


def test_tokens_are_pooled_as_the_task_says(built, tiny):
    data, adapted, _ = built("lora", "mean")
    model = EncoderModel(adapted, replace(data.task, pooling="cls")).eval()
    batch = {
        "input_ids": torch.tensor([[0, 101, 9], [101, 9, 8]]),
        "attention_mask": torch.tensor([[0, 1, 1], [1] * 3]),
    }
    with torch.no_grad():
        hidden = adapted.eval()(**batch).last_hidden_state
        expected = model.head(torch.stack([hidden[0, 1], hidden[1, 0]]))
        torch.testing.assert_close(model(batch).logits, expected)
