"""A plain linear layer runs as one operation with its base; any other base runs its own code."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.func import functional_call

import corefold
import laws
from adapters.layer_kinds import close, dense_weights, flat, gpt2, shake, weight_name
from laws import lies_within, same_matrix
from models import batches, inputs, layers, logits, randomise, tiny_llama, wrap


def wrapped(layer: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    """A model of one layer, its adapter in general position, and the adapted layer."""
    torch.manual_seed(0)
    model = nn.Sequential(layer or nn.Linear(6, 5))
    model = get_peft_model(model, corefold.DeepLoraConfig(target_modules=["0"], r=2))
    model.peft_config["default"].initialized = True
    randomise(model)
    return model, model.base_model.model[0]


def merged(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.merge_adapter()
    try:
        return model(x)
    finally:
        model.unmerge_adapter()


def functions(y: torch.Tensor) -> set[str]:
    """The names of all autograd nodes behind a tensor."""
    visited, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in visited:
            visited.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {node.name() for node in visited}


@pytest.mark.parametrize("tokens", [1, 50])
def test_a_plain_layer_is_one_operation(tokens):
    model, _ = wrapped()
    y = model(torch.randn(2, tokens, 6))
    assert "AddmmBackward0" not in functions(y)
    assert "_AdaptedLinearBackward" in functions(y)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled_by_a_hook(layer):
    layer.register_forward_hook(lambda module, args, y: 2 * y)


def doubled_by_a_pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def doubled_in_place(layer):
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)


def doubled_by_parametrization(layer):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Twice())


@pytest.mark.parametrize(
    "change", [doubled_by_a_hook, doubled_by_a_pre_hook, doubled_in_place, doubled_by_parametrization]
)
@pytest.mark.parametrize("tokens", [1, 50])
def test_changes_of_the_base_layer_by_others_are_kept(change, tokens):
    model, layer = wrapped(nn.Linear(6, 5, bias=False))
    x = torch.randn(2, tokens, 6)
    with model.disable_adapter():
        plain = model(x)
    update = model(x) - plain
    change(layer.base_layer)
    laws.same_matrix(model(x), 2 * plain + update, 1e-5)


def test_a_subclass_of_linear_runs_its_own_code():
    model, layer = wrapped(Doubled(6, 5))
    x = torch.randn(2, 50, 6)
    with model.disable_adapter():
        plain = model(x)
        laws.same_matrix(
            plain, 2 * nn.functional.linear(x, layer.base_layer.weight, layer.base_layer.bias), 1e-6
        )
    laws.same_matrix(model(x) - plain, x @ layer.get_delta_weight("default").mT, 1e-5)


def test_hooks_for_every_module_see_the_base_layer():
    model, layer = wrapped()
    visited = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: visited.append(module))
    try:
        model(torch.randn(3, 6))
    finally:
        handle.remove()
    assert layer.base_layer in visited


def test_an_unfrozen_base_gets_its_gradient():
    model, layer = wrapped()
    layer.base_layer.requires_grad_(True)
    x = torch.randn(2, 50, 6)
    model(x).square().sum().backward()
    dense = layer.base_layer.weight.detach() + layer.get_delta_weight("default").detach()
    y = nn.functional.linear(x, dense.requires_grad_(), layer.base_layer.bias.detach())
    (expected,) = torch.autograd.grad(y.square().sum(), dense)
    laws.same_matrix(layer.base_layer.weight.grad, expected, 1e-5)
    laws.same_matrix(layer.base_layer.bias.grad, 2 * y.detach().sum((0, 1)), 1e-5)


def test_functorch_takes_it():
    model, _ = wrapped()
    names = [name for name, p in model.named_parameters() if "factors" in name]
    params = {name: dict(model.named_parameters())[name].detach() for name in names}
    x = torch.randn(4, 3, 6)

    def loss(values, row):
        return torch.func.functional_call(model, values, (row,)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
    for i, row in enumerate(x):
        model.zero_grad()
        model(row).square().sum().backward()
        for name in names:
            laws.same_matrix(grads[name][i], model.get_parameter(name).grad, 1e-5)


def test_a_wrong_dtype_fails_as_without_an_adapter():
    model, _ = wrapped()
    with pytest.raises(RuntimeError, match=r"same dtype|mat1 and mat2"):
        model(torch.randn(3, 6, dtype=torch.float64))


def test_the_merged_forward_is_the_base_layer_s_own():
    for layer in (nn.Linear(6, 5), nn.Linear(6, 5, bias=False)):
        model, _ = wrapped(layer)
        x = torch.randn(2, 50, 6)
        expected = merged(model, x)
        laws.same_matrix(model(x), expected, 1e-5)
        assert type(model.merge_and_unload()[0]) is nn.Linear


GPT2 = {"target_modules": ["c_attn", "c_proj", "c_fc", "wte", "wpe"], "fan_in_fan_out": True}


def test_gpt2():
    base, batch = gpt2(tie_word_embeddings=False), inputs("tiny")
    model = wrap(copy.deepcopy(base), **GPT2).eval()
    assert len(layers(model)) == 2 * 4 + 2
    assert torch.equal(logits(model, batch), logits(base, batch))
    shake(model)
    expected = functional_call(base, dense_weights(model, base), (), batch).logits
    close(logits(model, batch), expected.detach(), atol=1e-11)
    close(logits(model.merge_and_unload(), batch), expected.detach(), atol=1e-11)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gpt2_bases_and_gradients(reentrant):
    base, data = gpt2(tie_word_embeddings=False), batches("tiny", 2)
    model = wrap(copy.deepcopy(base), **GPT2, bases="gradient").train()
    if reentrant is not None:
        gpt = model.get_base_model()  # transformers renamed the switch below.
        enable = getattr(gpt, "activation_checkpointing_enable", None) or gpt.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
    report = corefold.initialize_bases(model, data, progress=False)
    for batch in data:
        base(**batch).loss.backward()
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        u, s, vh = torch.linalg.svd(flat(base.get_parameter(name).grad, name, base))
        torch.testing.assert_close(report[path][:2], s[:2], rtol=1e-3, atol=0)
        lies_within(u[:, :1], layer.deeplora_left["default"], 1e-2)
        lies_within(vh[:1].mT, layer.tensors("default")[2], 1e-2)
    shake(model)
    factors = {path: layer.deeplora_factors["default"] for path, layer in layers(model).items()}
    dense = functional_call(base, dense_weights(model, base), (), data[0]).loss
    expected = torch.autograd.grad(dense, [*factors.values()])
    model(**data[0]).loss.backward()
    for (path, parameter), gradient in zip(factors.items(), expected, strict=True):
        assert gradient.any(), path
        same_matrix(parameter.grad, gradient, 1e-9)


def test_grouped_attention_shapes():
    base, batch = tiny_llama(num_attention_heads=6, num_key_value_heads=1).double(), inputs("tiny")
    model = wrap(copy.deepcopy(base), target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], r=5)
    sides = {(m.out_features, m.in_features, m.r["default"]) for m in layers(model).values()}
    assert sides == {(24, 24, 5), (4, 24, 4)}
    shake(model)
    expected = functional_call(base, dense_weights(model, base), (), batch).logits
    close(logits(model, batch), expected.detach())
