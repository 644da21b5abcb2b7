"""When a layer runs as one operation with its base, and that it does not where that would change what the base does."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

import corefold
import laws
from models import randomise


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
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {node.name() for node in seen}


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
def test_what_others_did_to_the_base_layer_is_kept(change, tokens):
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
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        model(torch.randn(3, 6))
    finally:
        handle.remove()
    assert layer.base_layer in seen


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
