"""The benchmarks of training steps run, on models too small to mean anything."""

from __future__ import annotations

import pytest
import torch

from benchmarks import figures
from benchmarks.shared.base_models import base_model, load, loss, random_batch
from benchmarks.shared.peers import MAIN, METHODS, BaseModel, initial_model
from benchmarks.shared.results import read
from benchmarks.shared.rounds import ratio, spread
from benchmarks.steps import batched_cores, scaling, step


def test_ratios_are_of_rounds_that_both_took_part_in():
    assert ratio([2.0, None, 9.0], [1.0, 5.0, 3.0]) == {"q1": 2.25, "median": 2.5, "q3": 2.75}
    assert spread([None, 3.0]) == {"q1": 3.0, "median": 3.0, "q3": 3.0}


def test_the_floor_goes_back_to_the_first_adapted_layer_and_trains_the_head_alone(minilm):
    base = BaseModel(minilm, loss, head="classifier", task_type="SEQ_CLS")
    before = {name: tensor.clone() for name, tensor in minilm.state_dict().items()}
    for name in (*MAIN, "full"):
        reached = []

        def watch(_module, _inputs, output, reached=reached):
            output.register_hook(lambda _grad: reached.append(1))

        trained_model = METHODS[name].start(base, initial_model(name, base))
        prefix = "" if name in ("floor", "full") else "base_model.model."
        first = trained_model.model.get_submodule(f"{prefix}bert.encoder.layer.0.attention.self.query")
        first.register_forward_hook(watch)
        trained_model.step(random_batch(minilm, 2, 8, 0, "cpu"))
        assert reached, name
        trained = {n for n, p in trained_model.model.named_parameters() if p.grad is not None}
        assert any("classifier" in n for n in trained), name
        if name == "floor":
            assert trained == {"classifier.weight", "classifier.bias"}
    after = minilm.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.filterwarnings("ignore")  # about the peers'
def test_step_scaling_and_figures_run(run_main, monkeypatch, tmp_path, capsys):
    out = tmp_path / "steps" / "step.json"
    small = ("--models", "llama-tiny", "--rounds", 2, "--budget", 0)
    run_main(step, out, *small, "--shapes", "2x8")
    run_main(step, out, *small, "--shapes", "1x16", "--methods", "deep_frozen")
    first, second = read(out)["cells"].values()
    assert len(first["methods"]) == 13
    assert first["methods"]["dora"]["seconds"][1] is None
    assert first["methods"]["floor"]["trained"] == 0
    assert first["methods"]["full"]["trained"] == first["base_parameters"]
    assert first["methods"]["deep_frozen"]["trained"] == first["adapted_layers"] * 3 * 8 * 8
    assert set(first["targets"]) == set(step.TARGETS)
    capsys.readouterr()
    run_main(step, out, *small, "--shapes", "2x8,1x16")
    assert not capsys.readouterr().out, "cells that are there are measured again"
    run_main(step, out, *small, "--only", "llama-tiny:2x8", "--methods", "deep_frozen")
    cells = read(out)["cells"].values()
    again, other = cells
    assert set(again["methods"]) == {"floor", "lora", "deep_frozen"}
    assert other == second

    monkeypatch.setattr(scaling, "FIXED", {"width": 2, "tokens": 32, "hidden": 24})
    monkeypatch.setattr(scaling, "SWEEPS", {"tokens": (8,)})
    run_main(scaling, out.with_name("scaling.json"), "--rounds", 2, "--budget", 0)

    readme = tmp_path / "README.md"
    text = "".join(
        f"<!-- {block} -->\nold\n<!-- end -->\n"
        for block in ("figure: step", "table: step", "table: targets")
    )
    readme.write_text(text)
    drawn = []
    for _ in range(2):
        run_main(figures, "--results", tmp_path, "--images", tmp_path, "--readme", readme)
        drawn.append({path.name: path.read_bytes() for path in [*tmp_path.glob("*.svg"), readme]})
    assert drawn[0] == drawn[1]
    assert {"step.svg", "memory.svg", "scaling.svg"} < set(drawn[0])
    assert "old" not in readme.read_text()
    assert "| llama-tiny | 2 × 8 |" in readme.read_text()


@pytest.mark.filterwarnings("ignore")
def test_batched_cores_run_and_every_layer_takes_its_core_from_them(run_main, tmp_path):
    out = tmp_path / "batched_cores.json"
    run_main(batched_cores, out, "--models", "llama-tiny", "--shapes", "2x8", "--rounds", 2, "--budget", 0)
    (cell,) = read(out)["cells"].values()
    assert all(len(seconds) == 2 for seconds in cell["seconds"].values())
    base = base_model(load("llama-tiny", "cpu"), rank=4)
    together, given = (
        batched_cores.BatchedCores(batched_cores.deep_lora(base), given=way) for way in (False, True)
    )
    batch = random_batch(base.module, 2, 8, 0, "cpu")
    for way in (together, given):
        way.step(batch)
    assert all(core.any() for core in given.parameter.grad), "a layer did not get its core from there"
    with torch.no_grad():
        for update in together.updates:
            update.factors.normal_()
        own = torch.stack([update.core() for update in together.updates])
        torch.testing.assert_close(together.together(), own)
