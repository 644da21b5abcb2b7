"""Settings of a Deep LoRA adapter, and the warning that its bases are random."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model

import corefold
from adapters.deep_lora.chosen_gradients import SPECTRA, ChosenGradients, spread
from adapters.deep_lora.test_param_groups import initialized
from adapters.layer_kinds import adapted, every_kind, inputs_of
from corefold.adapters import DeepLoraConfig
from models import batches, layers, tiny_llama, wrap


def test_the_default_is_a_pair_core():
    config = DeepLoraConfig()
    assert config.r < config.width
    assert config.depth == 2
    assert DeepLoraConfig.paper().width is None


@pytest.mark.parametrize("settings", [{"r": 9}, {"r": 2, "rank_pattern": {"q_proj": 9}}])
def test_bases_narrower_than_the_rank_are_refused(settings):
    with pytest.raises(ValueError, match="bases of 8 columns have no room for rank 9; give width=9 or more"):
        DeepLoraConfig(width=8, **settings)


def test_more_than_two_factors_need_a_square_core():
    with pytest.raises(ValueError, match="two factors; got depth=3 and width=112"):
        DeepLoraConfig(depth=3)
    with pytest.raises(ValueError, match="width"):
        DeepLoraConfig(width=0)
    assert DeepLoraConfig(depth=3, width=None).r == 2


def test_one_configuration_serves_many_adapters():
    config = corefold.DeepLoraConfig(r=4, target_modules=["a", "b", "c"])
    for _ in range(2):  # In a sweep the second model must get bases of its own.
        model = get_peft_model(ChosenGradients(SPECTRA).double(), config)
        own = model.peft_config["default"]
        assert own is not config
        assert not own.initialized
        assert own.rank_pattern == {}
        assert not own.basis_lr_ratio
        assert {layer.r["default"] for layer in layers(model).values()} == {4}
        spread(model, 10)
        corefold.param_groups(model, 1e-2, basis_lr_ratio=0.1)
        assert own.initialized
        assert own.rank_pattern

    model.add_adapter("other", config)
    assert not model.peft_config["other"].initialized
    assert model.peft_config["other"].rank_pattern == {}
    assert {layer.r["other"] for layer in layers(model).values()} == {4}
    assert model.peft_config["default"].rank_pattern


@every_kind
def test_training_on_random_bases_warns(kind):
    model, x = adapted(kind, seed=None), inputs_of(kind)
    with torch.no_grad():
        model.train()(x)
    with pytest.warns(UserWarning, match="random bases"):
        model(x)
    model(x)  # It warns only once.


def caught(model, batch):
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        model(**batch)
    return [str(warning.message) for warning in recorded if "random bases" in str(warning.message)]


def test_training_on_bases_that_nobody_set_warns_once(llama):
    (batch,) = batches("tiny", 1)
    model = wrap(llama).train()
    with torch.no_grad():
        assert not caught(model, batch)
    (message,) = caught(model, batch)
    assert "corefold.initialize_bases(model, dataloader)" in message
    assert "corefold.BasesCallback()" in message
    assert not caught(model, batch)
    model.add_adapter("second", corefold.DeepLoraConfig(target_modules=["q_proj"], r=3))
    model.set_adapter("second")
    assert len(caught(model, batch)) == 1
    assert not caught(model, batch)


def test_no_warning_where_there_is_no_reason(llama, tmp_path):
    data = batches("tiny", 1)
    assert not caught(wrap(llama), data[0])  # The model is in evaluation mode.
    assert not caught(wrap(tiny_llama(), bases="random").train(), data[0])
    model = initialized(wrap(tiny_llama()).train(), data)
    assert not caught(model, data[0])
    model.save_pretrained(tmp_path)
    assert not caught(PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True).train(), data[0])


def test_a_copy_is_not_taken_for_a_saved_configuration():
    config = corefold.DeepLoraConfig(width=8, target_modules=["a"])
    for make in (
        lambda: replace(config, r=9),
        lambda: corefold.DeepLoraConfig(**{**config.to_dict(), "r": 9}),
    ):
        with pytest.raises(ValueError, match="no room for rank 9"):
            make()
