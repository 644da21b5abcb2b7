"""A model spread over the processes of a distributed run, its batches and its training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

import corefold
from models import adapter_state, batches, tiny_llama, wrap

STEPS = 12
CLOSE = {"atol": 1e-8, "rtol": 0}  # Singular vectors lose a few digits of float64.
SAME_LOSS = {"atol": 1e-5, "rtol": 0}  # transformers computes the loss in float32.


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
    # No layer is larger than 40 x 24, so sketches of 2 * 8 + 8 directions hold every gradient whole.
    options = {
        "target_modules": "all-linear",
        "basis_lr_ratio": 0.1,
        "modules_to_save": ["lm_head"],
        **options,
    }
    return wrap(base(), r=8, **options).train()


def initialized(model, data, **options):
    # The first process has the default seed; that of the other must not matter.
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
    """The adapter's tensors, each gathered from all processes."""
    model = getattr(model, "module", model)
    return {name: whole(tensor) for name, tensor in adapter_state(model).items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def optimizer_of(model):
    return AdamW(corefold.param_groups(model, lr=1e-2, other_lr=1e-2), eps=1e-6)


def steps(model, optimizer, count=STEPS):
    """Train, and return the losses of the global batches."""
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
