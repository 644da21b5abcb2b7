"""The benchmarks run, on models too small to mean anything, and what they count is what there is."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MIB = 2**20


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def block(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8)


def test_the_peak_is_what_is_held_at_once_after_the_mark():
    from footprint import Watch

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

    with Watch() as watch:  # what the last one saw allocated goes: not ours
        del kept, second, third
        watch.mark()
        torch.ones(MIB)
    assert watch.peak == 4 * MIB


def test_a_training_step_holds_inputs_gradients_and_state():
    from footprint import Watch

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
    from footprint import addresses, saved_for_backward

    layer = torch.nn.Linear(64, 64)
    x = torch.ones(128, 64)
    with saved_for_backward(left_out=addresses(layer)) as saved:
        y = (layer(x) + layer(x)).sum()
    assert saved == {x.untyped_storage().data_ptr(): 128 * 64 * 4}
    y.backward()
    assert layer.weight.grad is not None


def test_ratios_are_of_rounds_that_both_took_part_in():
    from side_by_side import ratio, spread

    assert ratio([2.0, None, 9.0], [1.0, 5.0, 3.0]) == {"q1": 2.25, "median": 2.5, "q3": 2.75}
    assert spread([None, 3.0]) == {"q1": 3.0, "median": 3.0, "q3": 3.0}


def test_the_floor_goes_back_to_the_first_adapted_layer_and_trains_the_head_alone(minilm):
    from peers import MAIN, METHODS, Case, prepare
    from step import loss, random_batch

    case = Case(minilm, loss, head="classifier", task_type="SEQ_CLS")
    before = {name: tensor.clone() for name, tensor in case.base.state_dict().items()}
    for name in (*MAIN, "full"):
        reached = []

        def watch(_module, _inputs, output, reached=reached):
            output.register_hook(lambda _grad: reached.append(1))

        training = METHODS[name].start(case, prepare(name, case))
        prefix = "" if name in ("floor", "full") else "base_model.model."
        first = training.model.get_submodule(f"{prefix}bert.encoder.layer.0.attention.self.query")
        first.register_forward_hook(watch)
        training.step(random_batch(case.base, 2, 8, 0, "cpu"))
        assert reached, name
        trained = {n for n, p in training.model.named_parameters() if p.grad is not None}
        assert any("classifier" in n for n in trained), name
        if name == "floor":
            assert trained == {"classifier.weight", "classifier.bias"}
    after = case.base.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    gc.freeze()  # the benchmarks collect garbage often, which takes long over all that pytest has imported
    try:
        module.main()
    finally:
        gc.unfreeze()


@pytest.mark.filterwarnings("ignore")  # of the peers'
def test_step_scaling_and_figures_run(monkeypatch, tmp_path, capsys):
    import figures
    import scaling
    import step

    out = tmp_path / "results" / "step.json"
    few = ("--models", "llama-tiny", "--rounds", 2, "--budget", 0)
    run(step, monkeypatch, out, *few, "--shapes", "2x8")
    run(step, monkeypatch, out, *few, "--shapes", "1x16", "--methods", "deep_frozen")
    first, second = json.loads(out.read_text())["cells"]
    assert len(first["methods"]) == 13
    assert first["methods"]["dora"]["seconds"][1] is None
    assert first["methods"]["floor"]["trained"] == 0
    assert first["methods"]["full"]["trained"] == first["base_parameters"]
    assert first["methods"]["deep_frozen"]["trained"] == first["adapted_layers"] * 3 * 8 * 8
    assert set(first["targets"]) == set(step.TARGETS)
    capsys.readouterr()
    run(step, monkeypatch, out, *few, "--shapes", "2x8,1x16")
    assert not capsys.readouterr().out, "cells that are there are measured again"
    run(step, monkeypatch, out, *few, "--only", "llama-tiny:2x8", "--methods", "deep_frozen")
    cells = json.loads(out.read_text())["cells"]
    assert set(cells[0]["methods"]) == {"floor", "lora", "deep_frozen"}
    assert cells[1] == second

    monkeypatch.setattr(scaling, "FIXED", {"width": 2, "tokens": 32, "hidden": 24})
    monkeypatch.setattr(scaling, "SWEEPS", {"tokens": (8,)})
    run(scaling, monkeypatch, out.with_name("scaling.json"), "--rounds", 2, "--budget", 0)

    readme = tmp_path / "README.md"
    text = "".join(
        f"<!-- {block} -->\nold\n<!-- end -->\n"
        for block in ("figure: step", "table: step", "table: targets")
    )
    readme.write_text(text)
    drawn = []
    for _ in range(2):
        run(figures, monkeypatch, "--results", out.parent, "--images", tmp_path, "--readme", readme)
        drawn.append({path.name: path.read_bytes() for path in [*tmp_path.glob("*.svg"), readme]})
    assert drawn[0] == drawn[1]
    assert {"step.svg", "memory.svg", "scaling.svg"} < set(drawn[0])
    assert "old" not in readme.read_text()
    assert "| llama-tiny | 2 × 8 |" in readme.read_text()


@pytest.mark.filterwarnings("ignore")
def test_cores_runs_and_every_layer_takes_what_is_given(monkeypatch, tmp_path):
    import cores

    out = tmp_path / "cores.json"
    run(cores, monkeypatch, out, "--models", "llama-tiny", "--shapes", "2x8", "--rounds", 2, "--budget", 0)
    (cell,) = json.loads(out.read_text())["cells"]
    assert all(len(seconds) == 2 for seconds in cell["seconds"].values())
    case = cores.case_of(cores.load("llama-tiny", "cpu"), rank=4)
    together, given = (cores.Ahead(cores.deep(case), given=way) for way in (False, True))
    batch = cores.random_batch(case.base, 2, 8, 0, "cpu")
    for way in (together, given):
        way.step(batch)
    assert all(core.any() for core in given.given.grad), "a layer did not get its core from there"
    with torch.no_grad():
        for chain in together.chains:
            chain.factors.normal_()
        own = torch.stack([chain.core() for chain in together.chains])
        torch.testing.assert_close(together.together(), own)
