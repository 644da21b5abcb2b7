"""Stock tools serve the export: PEFT in a process where corefold cannot be imported, and llama.cpp's names."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import corefold
from models import find, inputs, layers, load, logits, randomise, tiny_llama, wrap

SERVER = Path(__file__).with_name("serve_without_corefold.py")
WIDTHS = {"0": 3, "1": 5, "2": 8, "3": 1, "4": 4, "head": 2}
ROWS = ["1", "__base__", "4", "0", "3", "2", "1"]
BATCH = {"input_ids": inputs("tiny", rows=len(ROWS))["input_ids"]}


@torch.no_grad()
def trained(base, width, seed, **options):
    """`base` with an adapter in general position; each layer's update has a rank of its own, 1 to `width`."""
    model = wrap(base, r=width, depth=2, target_modules="all-linear", **options).eval()
    randomise(model, seed)
    for i, layer in enumerate(layers(model).values()):
        first, last = layer.deeplora_factors["default"]
        first.copy_(torch.eye(width))
        last[:, (i + seed) % width + 1 :] = 0
        last.add_(0.1**2 * torch.eye(width))  # The update subtracts this start again.
        layer.deeplora_left["default"].mul_(layer.weight.norm() / layer.get_delta_weight("default").norm())
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of adapters as `SERVER` finds them, and native logits by adapter."""
    folder = tmp_path_factory.mktemp("exported")
    tiny_llama().save_pretrained(folder / "llama")
    save_file(BATCH, folder / "llama" / "inputs.safetensors")
    (folder / "rows.txt").write_text(" ".join(ROWS))
    native = {"__base__": logits(tiny_llama(), BATCH)}
    for seed, (name, width) in enumerate(WIDTHS.items()):
        saved = ["lm_head"] if name == "head" else None
        model = trained(tiny_llama(), width, seed, task_type="CAUSAL_LM", modules_to_save=saved)
        model.peft_config["default"].base_model_name_or_path = str(folder / "llama")
        if saved:
            with torch.no_grad():
                model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(-1.5)
        native[name] = logits(model, BATCH)
        corefold.export_lora(model, folder / "adapters" / name, tolerance=1e-5)
    return folder, native


@pytest.fixture(scope="module")
def serve(exported):
    """Logits that `SERVER` found in one of its tasks."""
    folder, native = exported
    batch, model = inputs("minilm"), trained(load("minilm"), 6, 0, task_type="SEQ_CLS")
    native["minilm"] = logits(model, batch)
    corefold.export_lora(model, folder / "minilm" / "adapter", tolerance=1e-5)
    save_file(batch, folder / "minilm" / "inputs.safetensors")
    (folder / "minilm" / "base.txt").write_text(str(find("minilm")))
    done = subprocess.run([sys.executable, SERVER, folder], capture_output=True, text=True)

    def found(task):
        path = folder / f"{task}.safetensors"
        assert path.exists(), done.stderr
        return load_file(path)

    return found


def same(found, native):
    torch.testing.assert_close(found, native, atol=1e-5 * max(1.0, native.abs().max().item()), rtol=0)


def test_adapters_differ_by_far_more_than_the_tolerance(exported):
    _, native = exported
    tiny = [native[name] for name in ("__base__", *WIDTHS)]
    assert min((a - b).abs().max() for a, b in combinations(tiny, 2)) > 0.05


def test_stock_peft_loads_it(exported, serve):
    _, native = exported
    found = serve("load")
    assert len(found) == 7
    for name, got in found.items():
        same(got, native[name.split()[-1]])


def test_five_adapters_in_one_batch(exported, serve):
    _, native = exported
    found = serve("mix")
    mixed = found.pop("mixed")
    assert found.keys() == {*WIDTHS} - {"head"}
    for row, name in enumerate(ROWS):
        same(mixed[row], native[name][row])
    for name, alone in found.items():
        same(alone, native[name])


def test_hot_swap(exported, serve):
    """Adapters of different ranks take one another's place, in a compiled model without compiling it again."""
    _, native = exported
    found = serve("swap")
    assert len(found) == 6
    for name, got in found.items():
        same(got, native[name.split()[1]])


def pairs_of(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name.removesuffix(".lora_A.weight"): (tensors[name.replace("lora_A", "lora_B")], a)
        for name, a in tensors.items()
        if name.endswith(".lora_A.weight")
    }


@pytest.mark.parametrize("name", [*WIDTHS])
def test_every_server_scales_alike(name, exported):
    """Their rules, read in their sources, agree if all ranks are equal and no layer has settings of its own."""
    folder = exported[0] / "adapters" / name
    config = json.loads((folder / "adapter_config.json").read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    assert not config["use_rslora"]
    assert not config["alpha_pattern"]  # PEFT hot-swaps only between equal patterns.
    assert alpha / rank == 1  # vLLM, SGLang and TGI have one scale for all layers.
    for b, a in pairs_of(folder).values():
        assert alpha / b.shape[1] == 1  # llama.cpp divides alpha by the tensor's own rank.
        assert a.shape[0] == b.shape[1] == rank  # SGLang asserts it, and TGI stacks the layers.


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_llama_cpp_knows_the_names(model, exported, tmp_path):
    """llama.cpp's converter maps the name of the base's weight, which it reads in the names of the factors."""
    if model == "tiny":
        folder, blocks = exported[0] / "adapters" / "0", 2
    else:
        folder, blocks = tmp_path, 30
        corefold.export_lora(wrap(load(model), target_modules="all-linear"), folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, blocks)
    base = {"tiny": tiny_llama, "smollm2": lambda: load("smollm2", copied=False)}[model]().state_dict()
    found = {}
    for name, (b, a) in pairs_of(folder).items():
        weight = name.removeprefix("base_model.model.") + ".weight"
        assert (b.shape[0], a.shape[1]) == base[weight].shape
        found[names.get_name(weight, try_suffixes=(".weight",))] = name
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert found.keys() == {f"blk.{block}.{kind}.weight" for block in range(blocks) for kind in kinds}
    # Llama.cpp reads 0 as no scale.
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] > 0


def test_the_folder_holds_no_pickle(exported):
    for name in WIDTHS:
        folder = exported[0] / "adapters" / name
        assert {path.name for path in folder.iterdir()} == {
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert all(key.startswith("base_model.model.") for key in file.keys())  # noqa: SIM118
