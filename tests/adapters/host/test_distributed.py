"""Two gloo processes against one on the same global batches: the bases, the losses, the errors."""

from __future__ import annotations

import pytest
import torch

from adapters.host.sharded_models import (
    CLOSE,
    SAME_LOSS,
    adapted,
    initialized,
    optimizer_of,
    own_rows,
    rank,
    spread,
    state,
    steps,
)
from models import adapter_state, same_tensors
from two_processes import in_two_processes


def run(how, order):
    model = adapted()
    if order == "bases first":
        initialized(model, own_rows())
    if how != "alone":
        model = spread(model, how)
    if how == "fsdp kept whole":  # This is how gradients are accumulated.
        model.set_reshard_after_backward(False)
    if order == "wrapped first":
        initialized(model, own_rows())
    if how == "fsdp kept whole":
        model.set_reshard_after_backward(True)
    bases = state(model) if how != "fsdp1" else {}  # FSDP1 cuts parameters into flat pieces.
    return bases, steps(model, optimizer_of(model))


@pytest.fixture(scope="module")
def alone():
    return run("alone", "bases first")


@pytest.mark.parametrize(
    ("how", "order"),
    [
        ("ddp", "bases first"),
        ("ddp", "wrapped first"),
        ("fsdp", "bases first"),
        ("fsdp", "wrapped first"),
        ("fsdp kept whole", "wrapped first"),
        ("hybrid", "wrapped first"),
        ("fsdp1", "bases first"),
    ],
)
def test_two_processes_train_as_one_on_the_global_batch(tmp_path, alone, how, order):
    (bases, losses), (other_bases, other_losses) = in_two_processes(run, tmp_path, how, order)
    assert same_tensors(bases, other_bases)
    assert torch.equal(losses, other_losses)
    for name, tensor in bases.items():
        torch.testing.assert_close(tensor, alone[0][name], **CLOSE)
    torch.testing.assert_close(losses, alone[1], **SAME_LOSS)
    assert losses[-1] < 0.9 * losses[0]


def test_bases_do_not_depend_on_how_the_data_is_cut():
    whole, cut = own_rows(1), [{k: v[i : i + 2] for k, v in own_rows(1)[0].items()} for i in (0, 2)]
    one, two = adapter_state(initialized(adapted(), whole)), adapter_state(initialized(adapted(), cut))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, **CLOSE)


def mixed_precision():
    model = spread(adapted(), "mixed")
    initialized(model, own_rows())  # In this first forward pass FSDP2 chooses the dtypes of its reductions.
    model(**own_rows()[0]).loss.backward()
    return {name: (p.grad.dtype, p.dtype) for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_still_reduced_in_the_precision_asked_for(tmp_path):
    dtypes, _ = in_two_processes(mixed_precision, tmp_path)
    assert {name.split(".")[-2] for name in dtypes} >= {"deeplora_factors", "deeplora_left", "deeplora_right"}
    assert {*dtypes.values()} == {(torch.float64, torch.float64)}


def nothing_here(data):
    return [] if rank() == 1 else data


def breaks_here(data):
    yield data[0]
    if rank() == 1:
        raise OSError("the disk is gone")
    yield data[1]


def not_finite_here(model, batch):
    loss = model(**batch).loss
    return loss * float("nan") if rank() == 1 else loss


def reaches_nothing(model, batch):
    return model(**batch).loss.detach()


def failures(how):
    """The errors raised in this process, and the bases of a pass that succeeds after them."""
    model = adapted()
    model = spread(model, how) if how != "plain" else model
    before, errors = state(model), []
    for data, loss_fn in (
        (nothing_here(own_rows()), None),
        (breaks_here(own_rows()), None),
        (own_rows(), not_finite_here),
        (own_rows(), reaches_nothing),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            initialized(model, data, loss_fn=loss_fn)
        errors.append(str(caught.value))
    assert same_tensors(state(model), before)
    return errors, state(initialized(model, own_rows()))


@pytest.mark.parametrize("how", ["plain", "fsdp"])
def test_errors_are_raised_in_every_process(tmp_path, alone, how):
    for here, (errors, bases) in enumerate(in_two_processes(failures, tmp_path, how)):
        empty, broken, not_finite, unreached = errors
        assert "gave no batch" in empty
        assert broken == ("the disk is gone" if here == 1 else "process 1 failed: the disk is gone")
        assert "the loss of batch 1 is nan" in not_finite
        assert not_finite.startswith("process 1 failed: ") == (here == 0)
        assert "does not depend on 14 adapted layer(s)" in unreached
        for name, tensor in bases.items():
            torch.testing.assert_close(tensor, alone[0][name], **CLOSE)


def uneven():
    """Bases where one process has fewer batches, and where only one reaches the layers."""
    fewer = initialized(adapted(), own_rows()[: 3 - rank()])
    only_first = initialized(
        adapted(), own_rows(), loss_fn=reaches_nothing if rank() == 1 else None, num_batches=2
    )
    return state(fewer), state(only_first)


def test_processes_need_not_have_equally_much(tmp_path):
    (fewer, only_first), others = in_two_processes(uneven, tmp_path)
    assert same_tensors(fewer, others[0])
    assert same_tensors(only_first, others[1])
    first_rows = [{k: v[:2] for k, v in batch.items()} for batch in own_rows(2)]
    for got, data in ((fewer, own_rows(2)), (only_first, first_rows)):
        for name, tensor in adapter_state(initialized(adapted(), data)).items():
            torch.testing.assert_close(got[name], tensor, **CLOSE)


def refused_by_fsdp1():
    with pytest.raises(ValueError, match="partitioned") as caught:
        initialized(spread(adapted(), "fsdp1"), own_rows())
    return str(caught.value)


def test_fsdp1_is_refused(tmp_path):
    for message in in_two_processes(refused_by_fsdp1, tmp_path):
        assert message.startswith("FSDP1 has partitioned the adapter of ")
        assert "before the model is partitioned, or train with DDP or FSDP2" in message


@pytest.mark.parametrize("whole", [True, False], ids=["small, kept whole", "cut up"])
def test_zero_3_is_refused(whole):
    # DeepSpeed is no dependency. Its zero.Init and its engine do this to every parameter.
    model = adapted()
    for i, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_shape = i, parameter.shape
        if not whole:
            parameter.data = torch.empty(0)
    with pytest.raises(ValueError, match=r"^DeepSpeed ZeRO-3 has partitioned the adapter of .*DDP or FSDP2"):
        initialized(model, own_rows())
