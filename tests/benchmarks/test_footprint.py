"""The memory that benchmarks count is the memory that tensors occupy."""

from __future__ import annotations

import torch

from benchmarks.shared.footprint import Watch, addresses, saved_for_backward

MIB = 2**20


def block(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8)


def test_the_peak_is_what_is_held_at_once_after_the_mark():
    before = block(40)
    with Watch() as watch:
        gone = block(30)
        del gone
        kept = block(3)
        del before  # not counted when it came, nor when it goes
        watch.mark()
        first = block(10)
        second = block(10)
        del first
        third = block(5)
    assert watch.peak == 23 * MIB
    assert len(kept) + len(second) + len(third) == 18 * MIB

    with Watch() as watch:  # it also sees the release of what the last one saw allocated
        del kept, second, third
        watch.mark()
        torch.ones(MIB)
    assert watch.peak == 4 * MIB


def test_a_training_step_holds_inputs_gradients_and_state():
    with Watch() as watch:
        layer = torch.nn.Linear(256, 256, bias=False)  # W, then its gradient and two moments: 256 KiB each
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            watch.mark()  # the last mark counts
            layer(torch.ones(256, 256)).sum().backward()
            optimizer.step()
    # At the peak: W and its moments; input and W's gradient (output and its gradient went or are expanded scalars).
    assert 5 * MIB // 4 <= watch.peak <= 6.1 * MIB / 4


def test_saved_tensors_count_once_and_without_the_weights():
    layer = torch.nn.Linear(64, 64)
    x = torch.ones(128, 64)
    with saved_for_backward(left_out=addresses(layer)) as saved:
        y = (layer(x) + layer(x)).sum()
    assert saved == {x.untyped_storage().data_ptr(): 128 * 64 * 4}
    y.backward()
    assert layer.weight.grad is not None
