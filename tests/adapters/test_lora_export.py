"""A plain LoRA of an adapter: its error, its size, and the layers that it targets."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn

import corefold
from adapters.layer_kinds import KINDS, OBSTACLES, adapted, base_of, close, inputs_of
from corefold.adapters import DeepLoraConfig, to_lora
from models import inputs, layers, load, logits, randomise, tiny_llama, wrap

WEIGHTS = "adapter_model.safetensors"


def lora_of(base, folder):
    return PeftModel.from_pretrained(base, folder).eval()


def lora_updates(model):
    return {
        name: module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_update_is_exact_in_every_layer(dtype, depth, tmp_path):
    model = wrap(tiny_llama().to(dtype), target_modules="all-linear", depth=depth, r=5)
    randomise(model)
    corefold.export_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(tiny_llama().double(), tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    for path, layer in layers(model).items():
        exact = layer.get_delta_weight("default").double()
        a, b = (state[f"{path}.lora_{part}.weight"].double() for part in "AB")
        rounding = 1e-13 if dtype == torch.float64 else 2e-6
        assert (b @ a - exact).norm() <= rounding * exact.norm()
        assert a.shape[0] == 5
    for path, update in lora_updates(lora).items():
        exact = layers(model)[path].get_delta_weight("default").double()
        assert (update - exact).norm() <= 1e-5 * exact.norm()


def test_an_untrained_adapter_exports_as_nothing(llama, tmp_path):
    batch = inputs("tiny")
    before = logits(llama, batch)
    export = corefold.export_lora(wrap(llama), tmp_path, tolerance=0.1)
    assert torch.equal(logits(lora_of(tiny_llama(), tmp_path), batch), before)
    assert export.rank == 1
    assert {*export.needed.values()} == {1}


@torch.no_grad()
def decay(model, base=0.4):
    """Give every update singular values that fall off, faster from layer to layer."""
    for i, layer in enumerate(layers(model).values()):
        for factors in layer.deeplora_factors.values():
            factors[-1].mul_(torch.tensor([(base ** (1 + i / 4)) ** k for k in range(factors.shape[-1])]))


@pytest.mark.parametrize("tolerance", [1e-3, 0.05, 0.3])
def test_tolerance(tolerance, tmp_path):
    model = wrap(tiny_llama(), target_modules="all-linear", r=6, rank_pattern={"k_proj": 4})
    randomise(model, size=0.2)
    decay(model)
    full = corefold.export_lora(model, tmp_path / "full")
    export = corefold.export_lora(model, tmp_path / "small", tolerance=tolerance)
    assert full.bytes == full.bytes_at_full_width == export.bytes_at_full_width
    assert full.bytes_saved == 0
    assert full.rank == 6
    assert len({*export.needed.values()}) > 1
    assert export.rank == max(export.needed.values()) < 6

    # All layers have one rank, because servers scale unequal ranks each in their own way.
    config = PeftConfig.from_pretrained(tmp_path / "small")
    assert (config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern) == (export.rank,) * 2 + (
        {},
        {},
    )

    state = load_file(tmp_path / "small" / WEIGHTS)
    lora = lora_of(tiny_llama(), tmp_path / "small")
    updates = lora_updates(lora)
    for path, layer in layers(model).items():
        assert state[f"{path}.lora_A.weight"].shape == (export.rank, layer.in_features)
        assert state[f"{path}.lora_B.weight"].shape == (layer.out_features, export.rank)
        assert lora.get_submodule(path).r["default"] == export.rank
        assert lora.get_submodule(path).scaling["default"] == 1
        exact = layer.get_delta_weight("default")
        assert (updates[path] - exact).norm() <= (tolerance + 1e-6) * exact.norm()
        values, needed = (
            torch.linalg.svdvals(exact.double()),
            export.needed[path.removeprefix("base_model.model.")],
        )
        assert values[needed:].norm() <= tolerance * values.norm()
        # One direction fewer would not suffice; directions that only another layer needs are kept.
        assert needed == 1 or values[needed - 1 :].norm() > tolerance * values.norm()
        best = values[min(export.rank, layer.r["default"]) :].norm().item()
        assert (updates[path].double() - exact).norm().item() == pytest.approx(
            best, abs=1e-5 * values.norm().item()
        )

    for report, folder in ((full, "full"), (export, "small")):
        assert report.bytes == sum(t.nbytes for t in load_file(tmp_path / folder / WEIGHTS).values())
    sizes = [(tmp_path / folder / WEIGHTS).stat().st_size for folder in ("full", "small")]
    assert abs((sizes[0] - sizes[1]) - export.bytes_saved) < 1024  # The headers may differ.
    assert export.bytes_saved > 0
    assert f"{export.bytes_saved:,} saved" in str(export)
    assert export.directory == tmp_path / "small"


def test_bytes_of_a_float64_adapter(tmp_path):
    model = wrap(tiny_llama().double(), r=6)
    randomise(model)
    decay(model)
    export = corefold.export_lora(model, tmp_path, tolerance=0.05)
    assert export.bytes == sum(t.nbytes for t in load_file(tmp_path / WEIGHTS).values())
    assert export.bytes_at_full_width == 8 * sum(
        6 * (m.in_features + m.out_features) for m in layers(model).values()
    )


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, 2.0])
def test_a_tolerance_out_of_range(llama, tmp_path, tolerance):
    with pytest.raises(ValueError, match="tol"):
        corefold.export_lora(wrap(llama), tmp_path, tolerance=tolerance)


class Nested(nn.Module):
    """Layers whose names end in one another: fc, other_fc, sub.fc, sub.sub.fc..."""

    def __init__(self, depth=2):
        super().__init__()
        self.fc = nn.Linear(9, 9)
        self.other_fc = nn.Linear(9, 9)
        if depth:
            self.sub = Nested(depth - 1)

    def forward(self, x):
        x = self.other_fc(self.fc(x).tanh())
        return self.sub(x) if hasattr(self, "sub") else x


@pytest.mark.parametrize("common", [2, 5])
def test_names_that_end_in_one_another_keep_apart(common, tmp_path):
    torch.manual_seed(0)
    base, x = Nested(), torch.randn(4, 9)
    weights = {name: p.clone() for name, p in base.state_dict().items()}
    wanted = {
        "fc": 3,
        "sub.fc": 1,
        "sub.sub.fc": 4,
        "other_fc": 2,
        "sub.other_fc": common,
        "sub.sub.other_fc": common,
    }
    model = wrap(base, target_modules=["fc", "other_fc"], r=6, depth=2)
    randomise(model, size=0.5)
    start = 0.1**2
    with torch.no_grad():
        for path, layer in layers(model).items():
            keep = torch.ones(6)
            keep[wanted[path.removeprefix("base_model.model.")] :] = 0
            factors = layer.deeplora_factors["default"]
            # The core has exactly that rank once its start is subtracted.
            factors[0].copy_(torch.eye(6))
            factors[1].copy_(factors[1] * keep + start * torch.eye(6))
        native = model(x)
    export = corefold.export_lora(model, tmp_path, tolerance=1e-5)
    assert export.needed == wanted
    assert export.rank == max(wanted.values())
    fresh = Nested()
    fresh.load_state_dict(weights)
    lora = lora_of(fresh, tmp_path)
    assert {m.r["default"] for m in lora.modules() if hasattr(m, "lora_A")} == {export.rank}
    with torch.no_grad():
        torch.testing.assert_close(lora(x), native, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": "all-linear", "exclude_modules": ["up_proj", "k_proj"]},
        {"target_modules": r".*\.1\.mlp\..*_proj", "exclude_modules": r".*\.down_proj"},
        {"target_modules": None},
    ],
    ids=str,
)
def test_targeting_is_carried_over(options, tmp_path):
    model = wrap(tiny_llama(), **options)
    randomise(model)
    corefold.export_lora(model, tmp_path)
    lora = lora_of(tiny_llama(), tmp_path)
    assert lora_updates(lora).keys() == layers(model).keys()
    torch.testing.assert_close(logits(lora, inputs("tiny")), logits(model, inputs("tiny")), atol=1e-5, rtol=0)


def test_modules_to_save_and_biases_are_carried_over(tmp_path):
    model = wrap(load("minilm"), task_type="SEQ_CLS", bias="deeplora_only").eval()
    randomise(model)
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.mul_(-2)
        for layer in layers(model).values():
            layer.get_base_layer().bias.add_(torch.randn(layer.out_features))
    corefold.export_lora(model, tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert (config.peft_type, config.bias, config.task_type) == ("LORA", "lora_only", "SEQ_CLS")
    assert "classifier" in config.modules_to_save
    lora, batch = lora_of(load("minilm"), tmp_path), inputs("minilm")
    torch.testing.assert_close(logits(lora, batch), logits(model, batch), atol=1e-5, rtol=0)


def test_a_named_adapter_among_two(tmp_path):
    model = wrap(tiny_llama(), adapter_name="first")
    model.add_adapter("second", DeepLoraConfig(r=3, target_modules=["o_proj"]))
    randomise(model)
    corefold.export_lora(model, tmp_path, adapter_name="second")
    model.set_adapter("second")
    torch.testing.assert_close(
        logits(lora_of(tiny_llama(), tmp_path), inputs("tiny")),
        logits(model, inputs("tiny")),
        atol=1e-5,
        rtol=0,
    )
    model.base_model.set_adapter(["first", "second"])
    with pytest.raises(ValueError, match=r"first.*second"):
        corefold.export_lora(model, tmp_path)


def test_merged_or_disabled_makes_no_difference(tmp_path):
    model = wrap(tiny_llama())
    randomise(model)
    corefold.export_lora(model, tmp_path / "plain")
    model.merge_adapter()
    corefold.export_lora(model, tmp_path / "merged")
    assert (tmp_path / "plain" / WEIGHTS).read_bytes() == (tmp_path / "merged" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("how", ["transformers", "inject"])
def test_from_a_model_that_peft_did_not_wrap(how, tmp_path):
    config = DeepLoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
    if how == "transformers":
        model = tiny_llama()
        model.add_adapter(config, adapter_name="default")
    else:
        model = inject_adapter_in_model(config, tiny_llama())
    randomise(model)
    with torch.no_grad():
        model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    corefold.export_lora(model, tmp_path, adapter_name="default")
    lora = lora_of(tiny_llama(), tmp_path)
    torch.testing.assert_close(logits(lora, inputs("tiny")), logits(model, inputs("tiny")), atol=1e-5, rtol=0)


def test_from_a_saved_adapter(tmp_path):
    model = wrap(tiny_llama())
    randomise(model)
    model.save_pretrained(tmp_path / "deep")
    to_lora(
        PeftConfig.from_pretrained(tmp_path / "deep"),
        load_file(tmp_path / "deep" / WEIGHTS),
        tmp_path / "lora",
    )
    corefold.export_lora(model, tmp_path / "direct")
    assert (tmp_path / "lora" / WEIGHTS).read_bytes() == (tmp_path / "direct" / WEIGHTS).read_bytes()


def test_refuses_what_is_not_there(llama, tmp_path):
    with pytest.raises(ValueError, match="'other' is not a Deep LoRA adapter"):
        corefold.export_lora(wrap(llama), tmp_path, adapter_name="other")
    with pytest.raises(ValueError, match="adapter"):
        corefold.export_lora(nn.Linear(3, 3), tmp_path)
    lora = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="'default' is not a Deep LoRA adapter"):
        corefold.export_lora(lora, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OBSTACLES])
def test_stock_lora_takes_the_export(kind, tmp_path):
    model, x = adapted(kind), inputs_of(kind)
    export = corefold.export_lora(model, tmp_path)
    assert export.needed.keys() == {path.removeprefix("base_model.model.") for path in layers(model)}
    lora = PeftModel.from_pretrained(base_of(kind), tmp_path).eval()
    assert type(lora.base_model).__name__ == "LoraModel"
    close(lora(x), model(x), atol=1e-10)
    close(lora.merge_and_unload()(x), model(x), atol=1e-10)


@pytest.mark.parametrize("kind", [*OBSTACLES])
def test_no_export_of_what_lora_cannot_do(kind, tmp_path):
    with pytest.raises(ValueError, match=rf"layer .*{OBSTACLES[kind]}.*exclude_modules"):
        corefold.export_lora(adapted(kind), tmp_path)
    assert not [*tmp_path.iterdir()]
