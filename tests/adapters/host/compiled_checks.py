"""Checks of adapted models under torch.compile, as a script of their own: `test_compile.py` runs it once.

The tests' hook that checks shapes is Python that no graph can hold, so a process without it compiles.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

if __name__ == "__main__":
    tests = Path(__file__).parents[2]
    sys.path[:0] = [str(tests.parent), str(tests)]  # benchmarks/ lies beside tests/.
    sys.path.append(os.environ["SOURCE"])  # corefold need not be installed.

from torch._dynamo.testing import CompileCounterWithBackend

from adapters.host.compiled_models import (
    ALL,
    FEW,
    beside_a_broken_adapter,
    compiled_inside,
    one_block,
    other_layers,
    two_adapters,
)
from models import batches, layers, load, randomise, same_tensors, tiny_llama, wrap

never_again = torch._dynamo.config.patch(error_on_recompile=True)


def loss_of(model, batch):
    return model(**batch).loss


def gradients(model, run, *args):
    """The loss, and the gradient of every parameter that has one."""
    model.zero_grad()
    loss = run(*args)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same_as_eager(model, run, *args, rtol=0.0):
    """The compiled `run` has the loss and gradients of the eager one: the same bits, or within `rtol`."""
    loss, grads = gradients(model, run, *args)
    with torch.compiler.set_stance("force_eager"):
        eager_loss, eager_grads = gradients(model, run, *args)
    assert torch.equal(loss, eager_loss) or abs(loss / eager_loss - 1) <= rtol
    assert grads.keys() == eager_grads.keys()
    for name, grad in eager_grads.items():
        assert torch.equal(grads[name], grad) or (grads[name] - grad).norm() <= rtol * grad.norm(), name
    assert any("deeplora_factors" in name for name in grads)


def check_a_real_model_is_one_graph():
    minilm, batch = load("minilm"), batches("minilm")[0]
    del minilm.bert.encoder.layer[1:]  # All layers are alike, and each takes seconds to compile.
    model = wrap(minilm, target_modules="all-linear", task_type="SEQ_CLS")
    randomise(model)
    counter = CompileCounterWithBackend("eager")
    same_as_eager(model, loss_of, torch.compile(model, fullgraph=True, backend=counter), batch)
    assert counter.frame_count == 1


def check_nothing_recompiles_as_values_change():
    """aot_eager compiles the backward pass as well."""
    import corefold

    model, data = wrap(one_block(), **FEW), batches("tiny")
    randomise(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same_as_eager(model, loss_of, compiled, data[0])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def set_scale():
        for layer in layers(model).values():
            layer.set_scale("default", 0.25)

    def scale_layers():
        for layer in layers(model).values():
            layer.scale_layer(3.0)

    with never_again:
        for change in (
            optimizer.step,
            lambda: randomise(model, seed=1),
            lambda: model.load_state_dict(saved),
            set_scale,
            scale_layers,
            lambda: corefold.initialize_bases(model, data, progress=False),
            lambda: corefold.initialize_bases(compiled, data, progress=False),
            lambda: randomise(model, seed=2),
        ):
            change()
            same_as_eager(model, loss_of, compiled, data[0])


def check_bases_are_those_of_the_model_not_compiled():
    import corefold

    states = []
    for compiled in (lambda model: model, torch.compile, lambda model: model.compile() or model):
        model = compiled(wrap(tiny_llama(), **ALL))  # Inductor never runs here.
        report = corefold.initialize_bases(model, batches("tiny"), progress=False)
        states.append({n.removeprefix("_orig_mod."): t for n, t in (model.state_dict() | report).items()})
    assert same_tensors(states[0], states[1])
    assert same_tensors(states[0], states[2])


def check_nothing_recompiles_as_adapters_switch():
    model, base, batch = two_adapters(), one_block(), batches("tiny")[0]
    plain = loss_of(base, batch)
    for name in ("default", "second"):
        # Otherwise PEFT makes the active adapter, and only it, trainable.
        model.set_adapter(name, inference_mode=True)
    counter = compiled_inside(model)
    with torch.no_grad(), never_again:
        losses = []
        for names in ("default", "second", ["default", "second"], [], "default"):
            model.base_model.set_adapter(names, inference_mode=True)
            losses.append(loss_of(model, batch))
            with torch.compiler.set_stance("force_eager"):
                assert torch.equal(loss_of(model, batch), losses[-1])
            with model.disable_adapter():
                assert torch.equal(loss_of(model, batch), plain)
        assert torch.equal(losses[3], plain)
        assert torch.equal(losses[0], losses[4])
        assert len({loss.item() for loss in losses}) == 4
    assert counter.frame_count == 1


def check_training_another_adapter_is_another_graph_once():
    model, batch = two_adapters(), batches("tiny")[0]
    counter = compiled_inside(model)
    for name, graphs in (("default", 1), ("second", 2), ("default", 2), ("second", 2)):
        model.set_adapter(name)
        # The graph runs both adapters as one, so that it sums in another order.
        same_as_eager(model, loss_of, model, batch, rtol=1e-6)
        assert counter.frame_count == graphs


def check_disabling_around_a_compiled_peft_model_is_another_graph_once():
    """PEFT's forward reads a flag of its own. A model that is compiled inside of it, as above, needs no second graph."""
    model, batch = wrap(one_block(), **FEW), batches("tiny")[0]
    randomise(model)
    counter = CompileCounterWithBackend("eager")
    compiled, plain = torch.compile(model, fullgraph=True, backend=counter), loss_of(one_block(), batch)
    for _ in range(3):
        same_as_eager(model, loss_of, compiled, batch)
        with model.disable_adapter():
            assert torch.equal(loss_of(compiled, batch), plain)
    assert counter.frame_count == 2


def check_training_steps_are_those_of_eager():
    histories = []
    for compiled in (False, True):
        model, data = wrap(one_block(), basis_lr_ratio=0.1, **ALL).train(), batches("tiny")
        randomise(model)
        if compiled:
            model.get_base_model().compile(fullgraph=True, backend="aot_eager")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for step in range(6):
            with never_again if step else torch._dynamo.config.patch():
                loss = loss_of(model, data[step % 2])
                loss.backward()
                with torch.no_grad(), model.disable_adapter():  # Preference training runs such a reference.
                    losses += [loss.item(), loss_of(model.eval(), data[0]).item()]
            model.train()
            optimizer.step()
            optimizer.zero_grad()
        histories.append(losses)
    assert histories[0] == histories[1]
    assert histories[0][-2] < histories[0][0]
    assert len({*histories[0][1::2]}) == 1


def check_disabled_adapters_get_no_gradient():
    model, batch = wrap(one_block(), **FEW), batches("tiny")[0]
    randomise(model)
    compiled_inside(model)
    loss_of(model, batch)
    with model.disable_adapter(), never_again:
        loss_of(model, batch).backward()  # Eager has nothing to differentiate here.
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def check_merging():
    model, batch = wrap(one_block(), **FEW), batches("tiny")[0]
    randomise(model)
    counter = compiled_inside(model)
    with torch.no_grad():
        before = loss_of(model, batch)
        model.merge_adapter()
        torch.testing.assert_close(loss_of(model, batch), before, rtol=1e-5, atol=0)
        model.unmerge_adapter()
        with never_again:
            assert torch.equal(loss_of(model, batch), before)
    assert counter.frame_count == 2


def check_every_kind_of_layer():
    for model, x, of in other_layers():
        randomise(model)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")

        def run(model, x, of=of):
            return of(model(x)).square().mean()

        same_as_eager(model, run, compiled, x)
        with never_again:
            for layer in layers(model).values():
                layer.set_scale("default", 0.5)
            randomise(model, seed=1)
            same_as_eager(model, run, compiled, x)


def check_an_inactive_adapter_of_nan_reaches_no_output():
    ids = torch.randint(11, (3, 7))
    for width in (None, 5):
        model, counter = beside_a_broken_adapter(width)
        with torch.no_grad(), model.disable_adapter(), torch.compiler.set_stance("force_eager"):
            plain = model(ids)
        for name in ("sound", "broken"):
            model.set_adapter(name, inference_mode=True)
        with torch.no_grad():
            for names in ("sound", ["sound", "broken"], [], "broken", "sound"):
                model.base_model.set_adapter(names, inference_mode=True)
                with torch.compiler.set_stance("force_eager"):
                    eager = model(ids)
                torch.testing.assert_close(model(ids), eager, equal_nan=True)
                assert eager.isnan().any() == ("broken" in names)
                assert names or torch.equal(model(ids), plain)
        assert counter.frame_count == 1


def check_an_inactive_adapter_of_nan_reaches_no_gradient():
    ids = torch.randint(11, (3, 7))
    for width in (None, 5):
        model, counter = beside_a_broken_adapter(width)
        same_as_eager(model, lambda model: model(ids).square().mean(), model, rtol=1e-5)
        assert counter.frame_count == 1


def check_autocast():
    model, x = (
        wrap(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7)), target_modules=["0", "1"]),
        torch.randn(3, 6),
    )
    randomise(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for training in (False, True):
        model.train(training)
        for autocast in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                assert torch.equal(compiled(x), model(x))


def check_inductor():
    model, x = (
        wrap(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7)), target_modules=["0", "1"]),
        torch.randn(3, 6),
    )
    randomise(model)
    compiled = torch.compile(model, fullgraph=True)

    def run(model):
        return model(x).square().mean()

    for scale in (1.0, 0.5):
        for layer in layers(model).values():
            layer.set_scale("default", scale)
        with never_again if scale < 1 else torch._dynamo.config.patch():
            torch.testing.assert_close(gradients(model, run, compiled), gradients(model, run, model))


CHECKS: dict[str, Callable[[], None]] = {
    name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")
}


def _outcome(check):
    torch._dynamo.reset()
    torch.manual_seed(0)
    try:
        check()
    except BaseException:  # pytest's skip is no Exception.
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    print(json.dumps({name: _outcome(check) for name, check in CHECKS.items()}))
