"""Saving and loading: bits, dtypes, and files that do not fit."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, get_peft_model_state_dict
from peft import set_peft_model_state_dict as set_state
from peft.utils.save_and_load import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from corefold.adapters import DeepLoraConfig, DeepLoraLayer
from corefold.adapters.host.internals import saves_biases
from models import (
    adapter_state,
    fresh_python,
    inputs,
    load,
    logits,
    randomise,
    same_tensors,
    tiny_llama,
    wrap,
)

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("name", ["minilm", "mpnet", "smollm2"])
def test_saved_and_loaded_gives_the_same_bits(name, tmp_path):
    batch = inputs(name)
    options = {"task_type": "CAUSAL_LM" if name == "smollm2" else "SEQ_CLS"}
    if name != "smollm2" and saves_biases():
        options["bias"] = "deeplora_only"
    model = wrap(load(name), target_modules="all-linear", rank_pattern={r".*\.2\..*": 3}, **options).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load(name), tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert not torch.equal(logits(loaded, batch), logits(load(name, copied=False), batch))
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    assert not loaded.training
    assert not any(p.requires_grad for name, p in loaded.named_parameters() if "deeplora" in name)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype_and_loading_from_the_meta_device(dtype, low_memory, tmp_path):
    model = wrap(tiny_llama().to(dtype), target_modules="all-linear", basis_lr_ratio=0.1)
    randomise(model)
    model.save_pretrained(tmp_path)
    assert same_tensors(load_file(tmp_path / WEIGHTS), get_peft_model_state_dict(model))
    loaded = PeftModel.from_pretrained(
        tiny_llama().to(dtype), tmp_path, low_cpu_mem_usage=low_memory, is_trainable=True
    )
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    assert torch.equal(logits(loaded, inputs("tiny")), logits(model, inputs("tiny")))
    trained = {n for n, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}


def test_auto_class(tmp_path):
    model = wrap(load("minilm"), task_type="SEQ_CLS").eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert torch.equal(logits(loaded, inputs("minilm")), logits(model, inputs("minilm")))


def test_into_transformers_without_a_peft_model(tmp_path):
    base = tiny_llama()
    base.add_adapter(DeepLoraConfig(r=3, target_modules=["q_proj"]), adapter_name="mine")
    randomise(base)
    base.save_pretrained(tmp_path)
    loaded = tiny_llama()
    loaded.load_adapter(str(tmp_path), adapter_name="mine")
    assert torch.equal(logits(loaded, inputs("tiny")), logits(base, inputs("tiny")))


@pytest.fixture
def saved(tmp_path):
    model = wrap(tiny_llama())
    randomise(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def damage(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_truncated_file_is_refused(saved):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[:-10])
    with pytest.raises(SafetensorError):
        PeftModel.from_pretrained(tiny_llama(), saved)


@pytest.mark.parametrize("part", ["deeplora_factors", "deeplora_left", "deeplora_right"])
def test_a_missing_tensor_is_named(saved, part):
    name = f"base_model.model.model.layers.1.self_attn.v_proj.{part}"
    damage(saved, lambda tensors: tensors.pop(name))
    with pytest.raises((RuntimeError, ValueError), match=name.replace(".", r"\.")):
        PeftModel.from_pretrained(tiny_llama(), saved)


@pytest.mark.parametrize("part", ["deeplora_factors", "deeplora_left", "deeplora_right"])
def test_a_tensor_of_another_shape_is_named(saved, part):
    name = f"base_model.model.model.layers.1.self_attn.v_proj.{part}"
    damage(saved, lambda tensors: tensors.update({name: tensors[name][..., :-1].contiguous()}))
    with pytest.raises(RuntimeError, match=rf"size mismatch for {name}"):
        PeftModel.from_pretrained(tiny_llama(), saved)


@pytest.mark.parametrize(
    ("field", "value"), [("r", 3), ("depth", 2), ("target_modules", ["q_proj", "k_proj"])]
)
def test_a_configuration_that_does_not_fit_is_refused(saved, field, value):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises((RuntimeError, ValueError), match=r"size mismatch|missing from the adapter"):
        PeftModel.from_pretrained(tiny_llama(), saved)


@pytest.mark.parametrize(
    "loaded_by", ["PeftModel", "PeftConfig", "DeepLoraConfig", "AutoPeftModel", "transformers"]
)
def test_settings_of_a_newer_version_are_refused(saved, loaded_by):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "gates": 2, "r_init": 8}))
    load_it = {
        "PeftModel": lambda: PeftModel.from_pretrained(tiny_llama(), saved),
        "PeftConfig": lambda: PeftConfig.from_pretrained(saved),
        "DeepLoraConfig": lambda: DeepLoraConfig.from_pretrained(saved),
        "AutoPeftModel": lambda: AutoPeftModelForSequenceClassification.from_pretrained(saved),
        "transformers": lambda: tiny_llama().load_adapter(str(saved)),
    }[loaded_by]
    with pytest.raises(TypeError, match=r"has no setting gates, r_init;.*pip install --upgrade"):
        load_it()


def test_a_pickle_is_warned_of(saved):
    """PEFT's own tests ask for one, so it cannot be refused."""
    model = PeftModel.from_pretrained(tiny_llama(), saved)
    with pytest.warns(UserWarning, match=r"adapter_model\.bin, a pickle"):
        model.save_pretrained(saved / "new", safe_serialization=False)
    torch.save(load_file(saved / WEIGHTS), saved / "adapter_model.bin")
    assert PeftModel.from_pretrained(tiny_llama(), saved)  # PEFT prefers safetensors, so there is no warning.
    (saved / WEIGHTS).unlink()
    with pytest.warns(UserWarning, match=r"adapter_model\.bin, a pickle"):
        PeftModel.from_pretrained(tiny_llama(), saved)


@pytest.mark.parametrize("change", ["shape", "missing"])
def test_transformers_names_a_tensor_that_does_not_fit(saved, change, caplog):
    name = "model.layers.1.self_attn.v_proj.deeplora_left"
    key = f"base_model.model.{name}"
    if change == "shape":
        damage(saved, lambda tensors: tensors.update({key: tensors[key][..., :-1].contiguous()}))
    else:
        damage(saved, lambda tensors: tensors.pop(key))
    # transformers only warns of a missing tensor, and no method can change that.
    with (
        pytest.raises(RuntimeError) if change == "shape" else nullcontext(SimpleNamespace(value="")) as error
    ):
        tiny_llama().load_adapter(str(saved))
    assert name in f"{caplog.text} {error.value}"


@pytest.mark.parametrize("device_map", [None, "auto", {"": "cpu"}], ids=str)
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_base_spread_by_a_device_map(saved, device_map, low_memory, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", device_map=device_map)
    loaded = PeftModel.from_pretrained(base, saved, low_cpu_mem_usage=low_memory)
    expected = PeftModel.from_pretrained(tiny_llama(), saved)
    assert torch.equal(logits(loaded, inputs("tiny")), logits(expected, inputs("tiny")))


def test_loading_into_an_existing_adapter(saved):
    source, target = PeftModel.from_pretrained(tiny_llama(), saved), wrap(tiny_llama())
    set_state(target, load_peft_weights(str(saved)))
    assert same_tensors(adapter_state(target), adapter_state(source))


def test_peft_cannot_take_the_deep_adapter_for_a_lora(tmp_path):
    model = wrap(tiny_llama())
    model.save_pretrained(tmp_path)
    code = """
    import sys
    from peft import PeftConfig
    try:
        PeftConfig.from_pretrained(sys.argv[1])
    except KeyError as error:
        print(error)
    """
    assert fresh_python(code, tmp_path) == "'DEEPLORA'"  # The model card says so.
    assert adapter_state(model)
    assert any(isinstance(module, DeepLoraLayer) for module in model.modules())
