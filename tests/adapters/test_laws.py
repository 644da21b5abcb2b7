"""The laws of every method on every kind of layer. A new method adds a line to METHODS, and must pass them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters.toy_method import DiagonalConfig
from adapters.toy_shared_method import SharedConfig
from corefold import DeepLoraConfig, export_lora
from corefold.adapters.host import AdapterConfig, AdapterLayer
from laws import same_matrix

METHODS: dict[str, Callable[..., AdapterConfig]] = {
    "deep core": lambda **settings: DeepLoraConfig(r=3, width=None, depth=3, init_scale=0.3, **settings),
    "pair core": lambda **settings: DeepLoraConfig(r=2, width=5, **settings),
    "toy diagonal": lambda **settings: DiagonalConfig(r=8, **settings),
    "toy with shared parameters": lambda **settings: SharedConfig(r=3, **settings),
}
FULL_RANK = ("toy diagonal",)
"""Methods whose updates no plain LoRA can hold."""

KINDS = ("linear", "transposed", "table", "convolution")


class Tower(nn.Module):
    """One layer of each kind in a row, none of them square."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.linear = nn.Linear(6, 9)
        self.transposed = Conv1D(7, 9)
        self.convolution = nn.Conv1d(7, 8, 3, padding=1, groups=1)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.transposed(self.linear(self.table(ids)).tanh()).tanh()
        return self.convolution(hidden.mT).mT


IDS = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 10, 1]])


def tower() -> Tower:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tower().double().eval()


def adapted(method: str, moved: bool = True, name: str = "default", **settings: Any) -> Any:
    """The tower with an adapter on all its layers, in general position if `moved`."""
    model = get_peft_model(tower(), METHODS[method](target_modules=[*KINDS], **settings), adapter_name=name)
    if moved:
        move(model, name)
    return model.eval()


@torch.no_grad()
def move(model: nn.Module, name: str, seed: int = 1) -> None:
    stream = torch.Generator().manual_seed(seed)
    for layer in layers(model).values():
        for tensor in layer.tensors(name):
            tensor += 0.2 * torch.randn(tensor.shape, generator=stream, dtype=torch.float64)
            if isinstance(layer.get_base_layer(), nn.Embedding) and len(tensor) == 11:
                tensor[0] = 0


def layers(model: nn.Module) -> dict[str, AdapterLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, AdapterLayer)}


def state(model: Any, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def test_an_untrained_adapter_changes_nothing(method):
    model = adapted(method, moved=False)
    assert len(layers(model)) == len(KINDS)
    assert torch.equal(model(IDS), tower()(IDS))
    assert not any(layer.get_delta_weight("default").any() for layer in layers(model).values())


def test_forward_is_the_base_with_the_dense_update(method):
    model, dense = adapted(method), tower()
    with torch.no_grad():
        for path, layer in layers(model).items():
            dense.get_submodule(path.removeprefix("base_model.model.")).weight += layer.get_delta_weight(
                "default"
            )
    same_matrix(model(IDS), dense(IDS), 1e-12)
    assert (model(IDS) - tower()(IDS)).abs().max() > 1e-3


def test_thin_and_dense_forms_agree(method):
    for layer in layers(adapted(method)).values():
        update = layer.update("default")
        assert update.dense().shape == (layer.left_rows, layer.right_rows)
        for pair in (update.thin(), update.lookup_factors()):
            assert (pair is None) == (method in FULL_RANK)
            if pair is not None:
                same_matrix(pair[0] @ pair[1].mT, update.dense(), 1e-13)
        values = torch.linalg.svdvals(update.dense())
        same_matrix(update.singular_values(), values[: len(update.singular_values())], 1e-12)


def test_gradients_are_those_of_the_dense_map(method):
    model = adapted(method)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained

    def run(*values: Tensor) -> Tensor:
        words = IDS.clamp(min=1)  # PyTorch hides the gradient of padding.
        return torch.func.functional_call(model, dict(zip(trained, values, strict=True)), (words,))

    assert torch.autograd.gradcheck(run, tuple(trained.values()))


@torch.no_grad()  # The linear map takes another route where nothing trains.
def test_save_and_load_to_the_last_bit(method, tmp_path):
    model = adapted(method)
    saved = state(model, tmp_path / "one")
    for low_cpu_mem_usage in (False, True):
        again = PeftModel.from_pretrained(
            tower(), tmp_path / "one", low_cpu_mem_usage=low_cpu_mem_usage
        ).eval()
        assert torch.equal(again(IDS), model(IDS))
        two = state(again, tmp_path / "two")
        assert saved.keys() == two.keys()
        assert all(torch.equal(saved[name], two[name]) for name in saved)
    assert PeftConfig.from_pretrained(tmp_path / "one").peft_type == model.peft_config["default"].peft_type


def test_a_missing_tensor_is_named(method, tmp_path):
    from safetensors.torch import save_file

    saved = state(adapted(method), tmp_path)
    gone = sorted(saved)[0]
    save_file(
        {name: tensor for name, tensor in saved.items() if name != gone},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises((RuntimeError, ValueError), match="is missing from the adapter"):
        PeftModel.from_pretrained(tower(), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merging_is_exact_and_unmerging_restores_every_bit(method, dtype):
    model = get_peft_model(tower().to(dtype), METHODS[method](target_modules=[*KINDS])).eval()
    move(model, "default")
    before = {path: layer.get_base_layer().weight.clone() for path, layer in layers(model).items()}
    exact = {
        path: before[path].double() + layer.get_delta_weight("default")
        for path, layer in layers(model).items()
    }
    expected = model(IDS)
    model.merge_adapter(safe_merge=True)
    for path, layer in layers(model).items():
        same_matrix(layer.get_base_layer().weight, exact[path], 2 * torch.finfo(dtype).eps)
    same_matrix(model(IDS), expected, 200 * torch.finfo(dtype).eps)
    model.unmerge_adapter()
    for path, layer in layers(model).items():
        assert torch.equal(layer.get_base_layer().weight, before[path])
    assert torch.equal(model(IDS), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_update_is_not_merged(method, value):
    model = adapted(method)
    layer = layers(model)["base_model.model.linear"]
    with torch.no_grad():
        layer.tensors("default")[0].view(-1)[0] = value
    before = layer.get_base_layer().weight.clone()
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        layer.merge(safe_merge=True)
    assert not layer.merged
    assert torch.equal(layer.get_base_layer().weight, before)


def two_adapters(method: str) -> Any:
    model = adapted(method, name="one")
    model.add_adapter("two", METHODS[method](target_modules=["linear", "convolution"]))
    move(model, "two", seed=2)
    return model.eval()


def test_rows_of_a_mixed_batch_are_those_of_their_adapters(method):
    model, alone = two_adapters(method), {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = model(IDS)
    with model.disable_adapter():
        alone["__base__"] = model(IDS)
    names = ["two", "__base__", "one"]
    mixed = model(IDS, adapter_names=names)
    for row, name in enumerate(names):
        same_matrix(mixed[row], alone[name][row], 1e-12)
    assert not torch.equal(alone["one"], alone["two"])


def test_active_adapters_add_up_and_deleted_ones_are_gone(method):
    model = two_adapters(method)
    model.base_model.set_adapter(["one", "two"])
    dense = tower()
    with torch.no_grad():
        for path, layer in layers(model).items():
            for name in layer.r:
                dense.get_submodule(path.removeprefix("base_model.model.")).weight += layer.get_delta_weight(
                    name
                )
    same_matrix(model(IDS), dense(IDS), 1e-12)
    model.base_model.set_adapter("one")
    one = model(IDS)
    model.delete_adapter("two")
    assert torch.equal(model(IDS), one)
    assert all([*layer.r] == ["one"] for layer in layers(model).values())


def test_a_scale_multiplies_the_update(method):
    model = adapted(method)
    for layer in layers(model).values():
        once = layer.get_delta_weight("default")
        layer.set_scale("default", 0.25)
        same_matrix(layer.get_delta_weight("default"), 0.25 * once, 1e-14)


def test_a_copy_is_a_model_of_its_own(method):
    model = adapted(method)
    twin = copy.deepcopy(model)
    before = model(IDS)
    assert torch.equal(twin(IDS), before)
    move(twin, "default", seed=3)
    assert torch.equal(model(IDS), before)
    assert not torch.equal(twin(IDS), before)


def test_only_the_active_adapter_trains(method):
    model = two_adapters(method)
    model.set_adapter("two")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.endswith(".two") for name in trained)


# PEFT's LoRA warns so of mixed layers.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_export_is_within_its_error_bound_or_refused(method, tmp_path):
    model = adapted(method)
    if method in FULL_RANK:
        with pytest.raises(ValueError, match="merge the adapter instead"):
            export_lora(model, tmp_path)
        assert not any(tmp_path.iterdir())
        return
    for tolerance in (None, 0.3):
        export_lora(model, tmp_path, tolerance=tolerance)
        assert all(".lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
        lora = PeftModel.from_pretrained(tower(), tmp_path).eval()
        for path, layer in layers(model).items():
            exact = layer.get_delta_weight("default")
            error = (lora.get_submodule(path).get_delta_weight("default") - exact).norm()
            assert error <= (1e-12 if tolerance is None else tolerance) * exact.norm()


def test_a_configuration_is_not_changed_by_the_models_made_of_it(method):
    config = METHODS[method](target_modules=[*KINDS])
    before = config.to_dict()
    for _ in range(2):
        model = get_peft_model(tower(), config)
        assert model.peft_config["default"].fan_in_fan_out
    assert config.to_dict() == before


def test_it_survives_offloading(method):
    from accelerate import cpu_offload

    model = adapted(method)
    with torch.no_grad():
        expected = model(IDS)
        cpu_offload(model, execution_device="cpu")
        same_matrix(model(IDS), expected, 1e-12)
