"""Two gloo processes against one: state dicts, and transformers' Trainer."""

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
from transformers import Trainer, TrainingArguments

import corefold
from adapters.host import sharded_models as sharded
from models import adapter_state, batches, logits, same_tensors
from two_processes import in_two_processes


def save_and_resume(how, folder):
    model = sharded.spread(sharded.initialized(sharded.adapted(), sharded.own_rows()), how)
    optimizer = sharded.optimizer_of(model)
    sharded.steps(model, optimizer, 3)
    state_dict, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": state_dict, "optimizer": optimizer_state}, checkpoint_id=folder / "sharded")
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if sharded.rank() == 0:
        getattr(model, "module", model).save_pretrained(folder / "full", state_dict=full)
    expected, adapter = logits(model.eval(), batches("tiny", 1)[0]), sharded.state(model)
    model.train()
    losses = sharded.steps(model, optimizer, 3)

    again = sharded.spread(sharded.adapted(), how)
    optimizer = sharded.optimizer_of(again)
    state_dict, optimizer_state = get_state_dict(again, optimizer)
    loaded = {"model": state_dict, "optimizer": optimizer_state}
    dcp.load(loaded, checkpoint_id=folder / "sharded")
    set_state_dict(again, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    resumed = sharded.state(again)
    for layer in again.modules():
        for config in getattr(layer, "configs", {}).values():
            config.initialized = True  # A state dict does not hold it.
    return expected, adapter, resumed, losses, sharded.steps(again, optimizer, 3)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_state_dicts_full_and_sharded(tmp_path, how):
    (expected, adapter, resumed, losses, again), _ = in_two_processes(
        save_and_resume, tmp_path, how, tmp_path
    )
    assert same_tensors(resumed, adapter)
    assert torch.equal(again, losses)

    one = PeftModel.from_pretrained(sharded.base(), tmp_path / "full")
    assert same_tensors(adapter_state(one), adapter)
    torch.testing.assert_close(logits(one, batches("tiny", 1)[0]), expected, **sharded.CLOSE)

    one = sharded.adapted()
    loaded = {"model": get_model_state_dict(one)}
    dcp.load(loaded, checkpoint_id=tmp_path / "sharded", no_dist=True)
    one.load_state_dict(loaded["model"])
    assert same_tensors(adapter_state(one), adapter)
    torch.testing.assert_close(logits(one.eval(), batches("tiny", 1)[0]), expected, **sharded.CLOSE)


class OwnOptimizer(Trainer):
    def create_optimizer(self, model=None):  # Under FSDP Trainer takes no optimizer made before.
        self.optimizer = sharded.optimizer_of(self.model)
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
        sharded.adapted(modules_to_save=None),
        arguments,
        train_dataset=rows,
        callbacks=[corefold.BasesCallback(2)],
    )
    trainer.train()
    trainer.save_model(str(folder / "final"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return type(trainer.model_wrapped).__name__, torch.tensor(losses), sharded.state(trainer.model)


def pretend_to_have_a_gpu():
    """accelerate shards on accelerators only; on a CPU it uses DDP in silence."""
    from accelerate import DistributedType, PartialState

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


@pytest.fixture(scope="module")
def trainer_alone(tmp_path_factory):
    return trainer_run("alone", tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(("how", "kind"), [("ddp", "DistributedDataParallel"), ("fsdp", "FSDPPeftModel")])
def test_trainer_with_callback(tmp_path, trainer_alone, how, kind):
    (wrapped, losses, adapter), (_, _, other) = in_two_processes(trainer_run, tmp_path, how, tmp_path / "out")
    assert wrapped == kind
    torch.testing.assert_close(losses, trainer_alone[1], **sharded.SAME_LOSS)
    assert same_tensors(adapter, other)
    for name, tensor in trainer_alone[2].items():
        torch.testing.assert_close(adapter[name], tensor, **sharded.CLOSE)
    for saved in (tmp_path / "out" / "final", tmp_path / "out" / "checkpoint-4"):
        assert same_tensors(adapter_state(PeftModel.from_pretrained(sharded.base(), saved)), adapter)
