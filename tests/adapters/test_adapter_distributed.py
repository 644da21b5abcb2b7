"""Two gloo processes against one on the same global batches: the bases, the losses, what is saved, the errors."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from peft import PeftModel
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from transformers import Trainer, TrainingArguments

import corefold
from models import adapter_state, batches, logits, same_tensors, tiny_llama, wrap
from two_processes import in_two_processes

STEPS = 12
CLOSE = {"atol": 1e-8, "rtol": 0}  # in float64; singular vectors lose a few digits
SAME_LOSS = {"atol": 1e-5, "rtol": 0}  # transformers takes it in float32


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(count=3):
    """This process's rows of the global batches."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return [
        {k: rows.chunk(world)[rank()] for k, rows in batch.items()} for batch in batches("tiny", count, 4)
    ]


def base():
    return tiny_llama().double()


def adapted(**options):
    # Width 8 of sides of at most 40 by 24: the sketches of 24 directions hold every gradient whole.
    options = {
        "target_modules": "all-linear",
        "basis_lr_ratio": 0.1,
        "modules_to_save": ["lm_head"],
        **options,
    }
    return wrap(base(), r=8, **options).train()


def initialized(model, data, **options):
    # The first process's seed is the default one; the other's must not matter.
    options = {"generator": torch.Generator().manual_seed(rank()), "progress": False, **options}
    corefold.initialize_bases(model, data, **options)
    return model


def spread(model, how):
    """The model over the processes, as `how` says."""
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp1":
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    options = {}
    if how == "hybrid":
        options["mesh"] = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    if how == "mixed":
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.get_base_model().model.layers:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def state(model):
    """The adapter's tensors, whole."""
    model = getattr(model, "module", model)
    return {name: whole(tensor) for name, tensor in adapter_state(model).items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def optimizer_of(model):
    return AdamW(corefold.param_groups(model, lr=1e-2, other_lr=1e-2), eps=1e-6)


def steps(model, optimizer, count=STEPS):
    """Trains, and returns the losses of the global batches."""
    data, losses = own_rows(), []
    for step in range(count):
        loss = model(**data[step % len(data)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        losses.append(total)
    return torch.stack(losses)


def run(how, order):
    model = adapted()
    if order == "bases first":
        initialized(model, own_rows())
    if how != "alone":
        model = spread(model, how)
    if how == "fsdp kept whole":  # as for accumulating gradients
        model.set_reshard_after_backward(False)
    if order == "wrapped first":
        initialized(model, own_rows())
    if how == "fsdp kept whole":
        model.set_reshard_after_backward(True)
    bases = state(model) if how != "fsdp1" else {}  # flat pieces there
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
    initialized(model, own_rows())  # the first forward, in which FSDP2 settles what dtypes it reduces in
    model(**own_rows()[0]).loss.backward()
    return {name: (p.grad.dtype, p.dtype) for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_still_reduced_in_the_precision_asked_for(tmp_path):
    dtypes, _ = in_two_processes(mixed_precision, tmp_path)
    assert {name.split(".")[-2] for name in dtypes} >= {"deeplora_factors", "deeplora_left", "deeplora_right"}
    assert {*dtypes.values()} == {(torch.float64, torch.float64)}


def save_and_resume(how, folder):
    model = spread(initialized(adapted(), own_rows()), how)
    optimizer = optimizer_of(model)
    steps(model, optimizer, 3)
    state_dict, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": state_dict, "optimizer": optimizer_state}, checkpoint_id=folder / "sharded")
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank() == 0:
        getattr(model, "module", model).save_pretrained(folder / "full", state_dict=full)
    said, kept = logits(model.eval(), batches("tiny", 1)[0]), state(model)
    model.train()
    losses = steps(model, optimizer, 3)

    again = spread(adapted(), how)
    optimizer = optimizer_of(again)
    state_dict, optimizer_state = get_state_dict(again, optimizer)
    loaded = {"model": state_dict, "optimizer": optimizer_state}
    dcp.load(loaded, checkpoint_id=folder / "sharded")
    set_state_dict(again, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    resumed = state(again)
    for layer in again.modules():
        for config in getattr(layer, "configs", {}).values():
            config.initialized = True  # the state dict has no word for it
    return said, kept, resumed, losses, steps(again, optimizer, 3)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_state_dicts_full_and_sharded(tmp_path, how):
    (said, kept, resumed, losses, again), _ = in_two_processes(save_and_resume, tmp_path, how, tmp_path)
    assert same_tensors(resumed, kept)
    assert torch.equal(again, losses)

    one = PeftModel.from_pretrained(base(), tmp_path / "full")
    assert same_tensors(adapter_state(one), kept)
    torch.testing.assert_close(logits(one, batches("tiny", 1)[0]), said, **CLOSE)

    one = adapted()
    sharded = {"model": get_model_state_dict(one)}
    dcp.load(sharded, checkpoint_id=tmp_path / "sharded", no_dist=True)
    one.load_state_dict(sharded["model"])
    assert same_tensors(adapter_state(one), kept)
    torch.testing.assert_close(logits(one.eval(), batches("tiny", 1)[0]), said, **CLOSE)


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
    """What each process is told, and whether it could go on in the end."""
    model = adapted()
    model = spread(model, how) if how != "plain" else model
    before, told = state(model), []
    for data, loss_fn in (
        (nothing_here(own_rows()), None),
        (breaks_here(own_rows()), None),
        (own_rows(), not_finite_here),
        (own_rows(), reaches_nothing),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            initialized(model, data, loss_fn=loss_fn)
        told.append(str(caught.value))
    assert same_tensors(state(model), before)
    return told, state(initialized(model, own_rows()))


@pytest.mark.parametrize("how", ["plain", "fsdp"])
def test_errors_are_raised_in_every_process(tmp_path, alone, how):
    for here, (told, bases) in enumerate(in_two_processes(failures, tmp_path, how)):
        empty, broken, not_finite, unreached = told
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
    for said in in_two_processes(refused_by_fsdp1, tmp_path):
        assert said.startswith("FSDP1 has partitioned the adapter of ")
        assert "before the model is partitioned, or train with DDP or FSDP2" in said


@pytest.mark.parametrize("held", [True, False], ids=["small, kept whole", "cut up"])
def test_zero_3_is_refused(held):
    # DeepSpeed is no dependency: this is what zero.Init and its engine do to every parameter.
    model = adapted()
    for i, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_shape = i, parameter.shape
        if not held:
            parameter.data = torch.empty(0)
    with pytest.raises(ValueError, match=r"^DeepSpeed ZeRO-3 has partitioned the adapter of .*DDP or FSDP2"):
        initialized(model, own_rows())


class OwnOptimizer(Trainer):
    def create_optimizer(self, model=None):  # Trainer takes no ready one under FSDP
        self.optimizer = optimizer_of(self.model)
        return self.optimizer


def trainer_run(how, folder):
    world, options = (2, {"ddp_backend": "gloo"}) if dist.is_initialized() else (1, {})
    if how == "fsdp":
        pretend_to_have_a_gpu()
        wrapping = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
        options = {"fsdp": True, "fsdp_config": wrapping}
    rows = [{k: v[0] for k, v in batches("tiny", 1, 1, 8, seed)[0].items()} for seed in range(24)]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=4 // world, logging_steps=1, save_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, seed=5,
        train_sampling_strategy="sequential", **options,
    )  # fmt: skip
    trainer = OwnOptimizer(
        adapted(modules_to_save=None), arguments, train_dataset=rows, callbacks=[corefold.BasesCallback(2)]
    )
    trainer.train()
    trainer.save_model(str(folder / "final"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return type(trainer.model_wrapped).__name__, torch.tensor(losses), state(trainer.model)


def pretend_to_have_a_gpu():
    """accelerate shards on accelerators only, and on a CPU goes on with DDP in silence."""
    from accelerate import DistributedType, PartialState

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


@pytest.fixture(scope="module")
def trainer_alone(tmp_path_factory):
    return trainer_run("alone", tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(("how", "kind"), [("ddp", "DistributedDataParallel"), ("fsdp", "FSDPPeftModel")])
def test_trainer_with_callback(tmp_path, trainer_alone, how, kind):
    (wrapped, losses, kept), (_, _, other) = in_two_processes(trainer_run, tmp_path, how, tmp_path / "out")
    assert wrapped == kind
    torch.testing.assert_close(losses, trainer_alone[1], **SAME_LOSS)
    assert same_tensors(kept, other)
    for name, tensor in trainer_alone[2].items():
        torch.testing.assert_close(kept[name], tensor, **CLOSE)
    for saved in (tmp_path / "out" / "final", tmp_path / "out" / "checkpoint-4"):
        assert same_tensors(adapter_state(PeftModel.from_pretrained(base(), saved)), kept)
