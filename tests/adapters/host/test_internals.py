"""The contract with the private names of PEFT, transformers, torch, accelerate and TRL: one check for each wrapper.

`tests/test_layout.py` keeps private names out of all other files of the source.
"""

from __future__ import annotations

import inspect
from enum import Enum
from importlib.metadata import version
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel, get_peft_model
from peft.utils.peft_types import PeftType
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from adapters.host.contracts import CHECKS, adapted, contract, hold
from adapters.toy_shared_method import SharedConfig
from cases import gaussian
from corefold import DeepLoraConfig
from corefold.adapters.host import AdapterLayer, AdapterTuner, internals


@contract("enum_member")
def a_string_enum_gains_a_member(_):
    class Colour(str, Enum):  # noqa: UP042 (as PEFT writes it)
        RED = "RED"

    blue = internals.enum_member(Colour, "BLUE")
    assert isinstance(blue, Colour)
    assert (blue.name, blue.value, blue) == ("BLUE", "BLUE", "BLUE")
    assert internals.enum_member(Colour, "BLUE") is blue is Colour("BLUE") is Colour["BLUE"]
    assert [*Colour] == [Colour.RED, blue]
    with pytest.raises(ValueError, match="GREEN"):
        Colour("GREEN")


@contract("peft_type")
def peft_has_a_member_for_the_method(_):
    assert internals.peft_type("deeplora") is PeftType("DEEPLORA")
    assert internals.peft_type("lora") is PeftType.LORA


@contract("saves_biases")
def peft_saves_biases_since_0_21(_):
    release = tuple(int(part) for part in version("peft").split(".")[:2])
    assert internals.saves_biases() == (release >= (0, 21))


@contract("PeftLayer.activate", "PeftLayer.switch")
def adapters_are_switched_and_train_as_before(_):
    _, layer = adapted(nn.Linear(4, 3))
    before = [parameter.requires_grad for parameter in layer.parameters()]
    layer.activate(["other"])
    assert layer.active_adapters == ["other"]
    for enabled in (False, True):
        layer.switch(enabled)
        assert layer.disable_adapters != enabled
    assert [parameter.requires_grad for parameter in layer.parameters()] == before


@contract("PeftLayer.cast_input")
def inputs_are_cast_unless_that_is_disabled(_):
    _, layer = adapted(nn.Linear(4, 3))
    x = torch.zeros(4)
    for enabled, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        layer.cast_input_dtype_enabled = enabled  # `disable_input_dtype_casting` sets it.
        assert layer.cast_input(x, torch.bfloat16).dtype == dtype


@contract("PeftLayer.embedding_scale")
def scaled_embeddings_tell_their_scale(_):
    _, layer = adapted(nn.Embedding(11, 7))
    assert layer.embedding_scale() is None
    _, layer = adapted(Gemma3TextScaledWordEmbedding(11, 7, 2, embed_scale=3.5))
    assert layer.embedding_scale() == 3.5


@contract("PeftLayer.r")
def peft_reads_the_adapters_of_a_layer(_):
    model, layer = adapted(nn.Linear(4, 3))
    layer.r["elsewhere"] = 2  # Its parameters would lie on the tuner.
    (status,) = model.get_layer_status()
    assert status.available_adapters == ["default", "elsewhere"]


@contract("PeftLayer.convert_adapter")
def a_loaded_adapter_is_moved_and_not_rounded(folder):
    adapted(nn.Linear(4, 3))[0].save_pretrained(folder)
    with patch.object(AdapterLayer, "convert_adapter", autospec=True) as convert:
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(4, 3)).bfloat16(), folder)
    assert convert.called
    assert all(call.kwargs == {"device": torch.device("cpu")} for call in convert.call_args_list)


@contract("PeftLayer.base_tensor")
def a_layer_has_a_base_tensor(_):
    _, layer = adapted(nn.Linear(4, 3))
    assert layer.base_tensor() is layer.get_base_layer().weight


@contract("PeftTuner.adapt")
def peft_asks_the_tuner_to_adapt_a_layer(_):
    with patch.object(AdapterTuner, "adapt", autospec=True) as adapt:
        base = nn.Sequential(nn.Sequential(nn.Linear(4, 3)))
        get_peft_model(base, config := DeepLoraConfig(r=2, bases="random", target_modules=["0.0"]))
    (_, given, *rest), _ = adapt.call_args
    assert given.to_dict() == config.to_dict()
    assert rest == ["default", base[0][0], "0", base[0], "0.0"]


@contract("PeftTuner.cast_adapter")
def peft_asks_the_tuner_to_cast_an_adapter(_):
    for keep in (True, False):
        config = DeepLoraConfig(r=2, bases="random", target_modules=["0"])
        with patch.object(AdapterTuner, "cast_adapter", autospec=True) as cast:
            get_peft_model(nn.Sequential(nn.Linear(4, 3)), config, autocast_adapter_dtype=keep)
        assert cast.call_args.args[1:] == ("default", keep)


@contract("PeftTuner.missing_tensors")
def loading_asks_for_missing_tensors(folder):
    adapted(nn.Linear(4, 3))[0].save_pretrained(folder)
    with (
        patch.object(AdapterTuner, "missing_tensors", return_value=["the.left.basis"]),
        pytest.raises((RuntimeError, ValueError), match=r"the\.left\.basis is missing from the adapter"),
    ):
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(4, 3)), folder)


@contract("PeftTuner.forward_hooks")
def a_forward_pass_runs_inside_the_tuners_hooks(_):
    model, _ = adapted(nn.Linear(4, 3))
    with patch.object(AdapterTuner, "forward_hooks", autospec=True) as hooks:
        model(input=gaussian(2, 4, dtype=torch.float32))
    assert hooks.call_args.args[1].keys() == {"input"}
    assert hooks.return_value.__enter__.called


@contract("PeftTuner.prefix")
def unloading_puts_an_attention_back(_):
    attention = nn.MultiheadAttention(8, 2)
    model, layer = adapted(attention)
    assert layer.get_base_layer() is attention
    assert model.unload()[0] is attention


@contract("FSDP1_PREFIX")
def fsdp1_has_this_prefix(_):
    from torch.distributed.fsdp import _common_utils

    assert internals.FSDP1_PREFIX == _common_utils.FSDP_PREFIX


def twice(layer: nn.Linear) -> None:
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)


@contract("is_bare")
def hooks_and_a_forward_of_its_own_are_seen(_):
    for change in (
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        twice,
    ):
        layer = nn.Linear(4, 3)
        assert internals.is_bare(layer)
        change(layer)
        assert not internals.is_bare(layer)
    handle = register_module_forward_hook(lambda *_: None)
    try:
        assert not internals.is_bare(nn.Linear(4, 3))
    finally:
        handle.remove()


@contract("HOOKS")
def every_table_of_hooks_is_known(_):
    tables = {name for name in vars(nn.Linear(4, 3)) if name.endswith(("forward_hooks", "forward_pre_hooks"))}
    tables |= {
        name for name in vars(nn.Linear(4, 3)) if name.startswith("_backward") and name.endswith("hooks")
    }
    assert {*internals.HOOKS} == tables


@contract("is_transformed")
def transforms_of_functorch_are_seen(_):
    states = []

    def square(x: torch.Tensor) -> torch.Tensor:
        states.append(internals.is_transformed())
        return x.square().sum()

    x = gaussian(3, 2)
    square(x)
    torch.func.vmap(square)(x)
    torch.func.grad(square)(x)
    assert states == [False, True, True]


@contract("convolved")
def a_convolution_takes_other_kernels(_):
    for options in (
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": 2, "padding_mode": "circular", "groups": 2},
    ):
        own, other = (nn.Conv2d(4, 6, 3, **options).double() for _ in range(2))
        x = gaussian(2, 4, 7, 6)
        bare = other(x) - other.bias[:, None, None]
        torch.testing.assert_close(internals.convolved(own, x, other.weight), bare)


@contract("has_one_size")
def an_attention_tells_whether_it_has_one_weight(_):
    assert internals.has_one_size(nn.MultiheadAttention(8, 2))
    assert not internals.has_one_size(nn.MultiheadAttention(8, 2, kdim=6))


@contract("own_state")
def a_module_gets_its_state_back(_):
    module = nn.BatchNorm1d(3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    saved, weight = internals.own_state(module), module.weight
    module.weight = nn.Parameter(torch.zeros(3))
    module.running_mean = torch.ones(3)
    module.eps = 7.0
    vars(module).update(saved)
    assert module.weight is weight
    assert module.eps == 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@contract("onloaded")
def offloaded_parameters_are_there_inside(_):
    tensors = nn.ParameterDict({"default": nn.Parameter(gaussian(3, 2, dtype=torch.float32))})
    expected = tensors["default"].detach().clone()
    cpu_offload(tensors, execution_device="cpu")
    assert tensors["default"].is_meta
    with internals.onloaded([tensors, nn.ParameterDict()]):
        assert torch.equal(tensors["default"], expected)
    assert tensors["default"].is_meta


@contract("uncompiled")
def a_compiled_model_holds_its_model(_):
    model = nn.Sequential(nn.Linear(4, 3))
    assert internals.uncompiled(torch.compile(model, backend="eager")) is model
    assert internals.uncompiled(model) is model


@contract("metrics_restored")
def trl_gathers_metrics_under_this_name(_):
    import trl

    for trainer in (trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer, trl.KTOTrainer):
        assert "self._metrics" in inspect.getsource(trainer), trainer
    fake = SimpleNamespace(_metrics={"eval": {"loss": [1.0]}})
    with internals.metrics_restored(fake):
        fake._metrics["eval"]["loss"].append(2.0)
    assert fake._metrics == {"eval": {"loss": [1.0]}}
    with internals.metrics_restored(None):
        pass


@contract("PeftLayer.cast_input_dtype_enabled")
def peft_turns_the_casting_of_inputs_off_and_on(_):
    from peft.helpers import disable_input_dtype_casting

    model, layer = adapted(nn.Linear(4, 3))
    with disable_input_dtype_casting(model):
        assert not layer.cast_input_dtype_enabled
    assert layer.cast_input_dtype_enabled


@contract("give_lora_ga_gradient")
def lora_ga_looks_for_the_gradient_under_this_name(_):
    from peft.tuners.lora import layer

    assert '"_peft_loraga_grad"' in inspect.getsource(layer.LoraLayer.lora_ga_init)


@contract("PeftTuner.shared_names")
def tensors_on_the_tuner_are_saved_and_loaded(folder):
    config = SharedConfig(r=2, target_modules=["0"], init_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), config)
    with torch.no_grad():
        model.base_model.sharedtoy_diagonal["default"].copy_(torch.tensor([3.0, 5.0]))
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(nn.Sequential(nn.Linear(4, 3)), folder)
    assert again.base_model.sharedtoy_diagonal["default"].tolist() == [3.0, 5.0]


@pytest.mark.parametrize("name", CHECKS)
def test_libraries_keep_the_contract(name, tmp_path):
    hold(name, tmp_path)


def test_every_wrapper_has_a_check():
    source = {name: each for name, each in vars(internals).items() if not name.startswith("_")}
    own = {name for name, each in source.items() if getattr(each, "__module__", None) == internals.__name__}
    own |= {name for name in source if name.isupper()}
    for owner in (internals.PeftLayer, internals.PeftTuner):
        own.remove(owner.__name__)
        own |= {f"{owner.__name__}.{name}" for name in vars(owner) if not name.startswith("_")}
    assert own - {"Member"} <= CHECKS.keys()


def test_a_broken_contract_names_the_function_to_adapt(monkeypatch, tmp_path):
    monkeypatch.delattr(nn.Conv2d, "_conv_forward")
    with pytest.raises(AssertionError, match=r"Adapt convolved in src/corefold/adapters/host/internals\.py"):
        hold("convolved", tmp_path)
