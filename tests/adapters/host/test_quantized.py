"""Quantised bases, one class for all of them: bitsandbytes and torchao wherever they run on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from corefold import initialize_bases
from corefold.adapters import DeepLoraConfig, export_lora
from models import adapter_state, batches, inputs, layers, logits, same_tensors, tiny_llama, wrap

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]
SIDES = {
    "hidden_size": 64,
    "intermediate_size": 128,
}
"""bitsandbytes has blocks of 64 inputs, and packs 32 outputs at a time."""

BITS4 = ["nf4", "nf4 twice", "fp4"]
KINDS = [*BITS4, "int8", "torchao int8", "torchao int4", "torchao float8"]
COARSENESS = {"nf4": 0.16, "nf4 twice": 0.17, "fp4": 0.17, "int8": 1 / 240, "torchao int8": 1 / 240}
COARSENESS |= {"torchao int4": 1 / 13, "torchao float8": 1 / 15}
"""The largest error of a weight as a share of the largest weight: half the widest gap between two levels."""


def settings(kind):
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind.startswith("torchao"):
        quantization = pytest.importorskip("torchao.quantization")
        types = {
            "torchao int8": quantization.Int8WeightOnlyConfig,
            "torchao int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
            "torchao float8": quantization.Float8WeightOnlyConfig,
            "torchao int4": lambda: quantization.IntxWeightOnlyConfig(
                weight_dtype=torch.int4, granularity=quantization.PerGroup(32)
            ),
        }
        return TorchAoConfig(types[kind]())
    pytest.importorskip("bitsandbytes")
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    name, *twice = kind.split()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
        bnb_4bit_use_double_quant=bool(twice),
        bnb_4bit_compute_dtype=torch.float32,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(**SIDES).save_pretrained(path)
    return path


@pytest.fixture
def quantised(folder):
    """Loads a fresh quantised Llama; evaluating it does not pack 4-bit weights anew, unless asked for."""
    from transformers import AutoModelForCausalLM

    def load(kind, dtype=torch.float32, packing=False):
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings(kind), dtype=dtype)
        for module in model.modules() if not packing else ():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model.eval()

    return load


def wrapped(base, **options):
    return wrap(base, target_modules="all-linear", task_type="CAUSAL_LM", **options)


@torch.no_grad()
def stir(model, seed=0, only="default"):
    """As `randomise`, but relative to the dequantised weight."""
    stream = torch.Generator().manual_seed(seed)
    for layer in layers(model).values():
        for part in layer.adapter_layer_names:
            tensor = getattr(layer, part)[only]
            tensor.copy_(torch.randn(tensor.shape, generator=stream) / tensor.shape[-1] ** 0.5)
        size = 0.3 * layer.get_base_weight().float().norm() / layer.get_delta_weight(only).norm()
        layer.deeplora_left[only].mul_(size)
    return model


def weights(model):
    """The dequantised weights."""
    return {name: layer.get_base_weight().clone() for name, layer in layers(model).items()}


def bits(model):
    """Every plain tensor inside the base layers, the scales of quantisation among them."""
    tensors = {}

    def add(name, value, depth=0):
        if hasattr(value, "__tensor_flatten__"):
            for part in value.__tensor_flatten__()[0]:
                add(f"{name}.{part}", getattr(value, part))
        elif isinstance(value, torch.Tensor):
            tensors[name] = value.detach().as_subclass(torch.Tensor).clone()
            for key in ("quant_state", "SCB") if depth < 3 else ():
                add(f"{name}.{key}", getattr(value, key, None), depth + 1)
        elif type(value).__name__ in ("QuantState", "MatmulLtState") and depth < 3:
            for key, part in vars(value).items():
                add(f"{name}.{key}", part, depth + 1)

    for path, layer in layers(model).items():
        base = layer.get_base_layer()
        for key, value in [*base.named_parameters(), *vars(base).items()]:
            add(f"{path}.{key}", value)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_wrapping_changes_no_bit(quantised, kind, dtype):
    base, batch = quantised(kind, dtype), inputs("tiny")
    before = logits(base, batch)
    model = wrapped(base)
    assert torch.equal(logits(model, batch), before)
    assert {tensor.dtype for tensor in adapter_state(model).values()} == {torch.float32}
    assert {type(layer).__name__ for layer in layers(model).values()} == {"DeepLoraLinear"}
    backend = {"int8": "bnb 8bit"} | dict.fromkeys(BITS4, "bnb 4bit")
    assert f"quantization_backend='{backend.get(kind, 'torchao')}'" in repr(model)
    stir(model)
    assert not torch.equal(logits(model, batch), before)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("kind", KINDS)
def test_bases_follow_the_gradient_of_the_weights_behind(quantised, kind):
    model, plain = wrapped(quantised(kind), r=8), tiny_llama(**SIDES)
    for name, weight in weights(model).items():
        plain.get_submodule(name.removeprefix("base_model.model.")).weight.data = weight
    plain, data = wrapped(plain, r=8), batches("tiny")
    logits(model, data[0])  # 8-bit layers move their scales in their first forward pass.
    before = bits(model)
    report, expected = (initialize_bases(m, data, progress=False) for m in (model, plain))
    assert same_tensors(bits(model), before)
    # In evaluation mode bitsandbytes' 8-bit layers also round their input.
    loose = kind == "int8"
    for name, layer in layers(model).items():
        torch.testing.assert_close(report[name], expected[name], rtol=2e-2 if loose else 1e-4, atol=1e-6)
        for part in ("deeplora_left", "deeplora_right"):
            own, other = (getattr(m, part)["default"].detach() for m in (layer, layers(plain)[name]))
            assert torch.linalg.svdvals(own.mT @ other).min() > (0.95 if loose else 0.9999)


@pytest.mark.parametrize("kind", KINDS)
def test_training_saving_and_exporting(quantised, kind, tmp_path):
    model, data, batch = wrapped(quantised(kind, torch.bfloat16)), batches("tiny"), inputs("tiny")
    initialize_bases(model, data, progress=False)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, eps=1e-6)
    before, losses = bits(model), []
    for step in range(12):
        loss = model(**data[step % 2]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.06
    assert same_tensors(bits(model), before)
    assert {tensor.dtype for tensor in adapter_state(model).values()} == {torch.float32}

    model.eval().save_pretrained(tmp_path / "deep")
    loaded = PeftModel.from_pretrained(quantised(kind, torch.bfloat16), tmp_path / "deep")
    assert torch.equal(logits(loaded, batch), logits(model, batch))

    export_lora(model, tmp_path / "lora")
    lora = PeftModel.from_pretrained(quantised(kind, torch.bfloat16), tmp_path / "lora")
    assert "lora" in type(lora.get_submodule(next(iter(layers(model))))).__module__
    # Stock LoRA adds the update in bfloat16, corefold in float32.
    torch.testing.assert_close(logits(lora, batch), logits(model, batch), rtol=0, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_reports_its_error_and_unmerging_restores_every_bit(
    quantised, kind, tmp_path, record_property
):
    model, batch = stir(wrapped(quantised(kind))), inputs("tiny")
    for used in (False, True):  # The first forward pass rearranges 8-bit layers.
        expected = logits(model, batch) if used else None
        sums = {n: w + layers(model)[n].get_delta_weight("default") for n, w in weights(model).items()}
        before, bases = bits(model), {name: layer.get_base_layer() for name, layer in layers(model).items()}
        model.merge_adapter()
        errors = model.merge_errors()
        record_property(f"merge error of {kind}", max(errors.values()))
        for name, merged in weights(model).items():
            error = errors[name.removeprefix("base_model.model.")]
            assert error == (merged - sums[name]).abs().max()
            assert 0 < error <= COARSENESS[kind] * sums[name].abs().max()
        assert not same_tensors(bits(model), before)
        if used:
            assert (logits(model, batch) - expected).abs().max() < 0.3 * expected.abs().max()
            model.to("cpu")
            model.save_pretrained(tmp_path)
            assert all("deeplora" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
            copied = copy.deepcopy(model)
            copied.unmerge_adapter()
            assert torch.equal(logits(copied, batch), expected)
        model.unmerge_adapter()
        assert same_tensors(bits(model), before)
        assert all(layer.get_base_layer() is bases[name] for name, layer in layers(model).items())
    assert model.merge_errors() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_are_quantised_once(quantised, kind):
    model = stir(wrapped(quantised(kind)))
    model.add_adapter("second", DeepLoraConfig(r=3, target_modules="all-linear"))
    stir(model, seed=1, only="second")
    before = bits(model)
    model.merge_adapter(["default", "second"])
    at_once, errors = bits(model), model.merge_errors()
    model.unmerge_adapter()
    assert same_tensors(bits(model), before)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"])
    assert same_tensors(bits(model), at_once)
    assert model.merge_errors() == errors
    model.unmerge_adapter()
    assert same_tensors(bits(model), before)


@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_unload(quantised, kind):
    model, batch = stir(wrapped(quantised(kind))), inputs("tiny")
    model.merge_adapter()
    merged = logits(model, batch)
    model.unmerge_adapter()
    plain = model.merge_and_unload(safe_merge=True)
    assert not layers(plain)
    assert torch.equal(logits(plain, batch), merged)
    assert type(plain.model.layers[0].mlp.up_proj) is type(quantised(kind).model.layers[0].mlp.up_proj)


def test_a_quantisation_without_gradients_is_refused(quantised):
    model = wrapped(quantised("torchao int8 dynamic"))
    with pytest.raises(ValueError, match="passes no gradient on"):
        initialize_bases(model, batches("tiny"), progress=False)
    assert torch.isfinite(logits(stir(model), inputs("tiny"))).all()  # Inference works.


def gradients(model):
    model.zero_grad()
    model(**batches("tiny")[0]).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def packs(model):
    """Whether bitsandbytes packs 4-bit weights anew on this CPU."""
    return any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())


@pytest.mark.parametrize("kind", BITS4)
def test_evaluating_costs_no_gradient(quantised, kind):
    model = stir(wrapped(quantised(kind, packing=True), bases="random")).train()
    assert not packs(model)
    before, expected = bits(model), gradients(model)
    logits(model.eval(), inputs("tiny"))
    assert same_tensors(bits(model), before)
    assert same_tensors(gradients(model.train()), expected)


@pytest.mark.parametrize("kind", BITS4)
def test_weights_packed_for_inference_are_refused(quantised, kind):
    base = quantised(kind, packing=True)
    if not packs(base):
        pytest.skip("bitsandbytes packs weights on CPUs with AVX512_BF16 only")
    logits(base, inputs("tiny"))
    with pytest.raises(ValueError, match="packed this 4-bit weight for inference"):
        wrapped(base)


@pytest.mark.parametrize("kind", ["nf4", "torchao int8"])
def test_quantised_by_hand(quantised, kind):
    """Without transformers PEFT cannot quantise torchao's weights again, and raises an error that says so."""
    source = quantised(kind).model.layers[0].mlp.up_proj
    model, x = nn.Sequential(source), torch.randn(3, 64)
    if kind.startswith("torchao"):
        with pytest.raises(ValueError, match="get_apply_tensor_subclass"):
            wrap(model, target_modules=["0"])
    else:
        before = model(x)
        assert torch.equal(wrap(model, target_modules=["0"])(x), before)
