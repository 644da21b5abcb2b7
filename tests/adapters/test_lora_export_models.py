"""Stock PEFT, in a process that never imports corefold, loads the exports of real models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import corefold
from models import find, fresh_python, inputs, layers, load, logits, randomise, wrap

REAL = {
    "minilm": {"task_type": "SEQ_CLS", "target_modules": "all-linear", "bias": "deeplora_only"},
    "mpnet": {
        "task_type": "SEQ_CLS",
        "rank_pattern": {r".*\.3\..*": 7},
        "target_modules": r".*\.(q|k|v|dense)",
    },
    "smollm2": {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "depth": 4},
}
STOCK = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

for name, (base, adapter, folder) in json.loads(sys.argv[1]).items():
    auto = AutoModelForCausalLM if name == "smollm2" else AutoModelForSequenceClassification
    labels = {} if name == "smollm2" else {"num_labels": 3}
    model = PeftModel.from_pretrained(auto.from_pretrained(base, **labels), adapter).eval()
    assert type(model.base_model).__name__ == "LoraModel"
    with torch.no_grad():
        save_file({"logits": model(**load_file(f"{folder}/inputs.safetensors")).logits}, f"{folder}/logits.safetensors")
assert "corefold" not in sys.modules
print("corefold was never imported")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By model: native logits, stock PEFT's logits of the export, and those of the bare base."""
    native, plan = {}, {}
    for name, options in REAL.items():
        folder, batch = tmp_path_factory.mktemp(name), inputs(name)
        model = wrap(load(name), **options).eval()
        if options.get("bias"):
            with torch.no_grad():  # The biases have trained, too.
                for layer in layers(model).values():
                    layer.get_base_layer().bias.add_(0.1)
        randomise(model)
        native[name] = logits(model, batch), logits(load(name, copied=False), batch)
        corefold.export_lora(model, folder / "lora")
        save_file(batch, folder / "inputs.safetensors")
        plan[name] = str(find(name)), str(folder / "lora"), str(folder)
    assert fresh_python(STOCK, json.dumps(plan)).endswith("never imported")
    return {
        name: (*native[name], load_file(f"{folder}/logits.safetensors")["logits"])
        for name, (_, _, folder) in plan.items()
    }


@pytest.mark.parametrize("name", [*REAL])
def test_stock_peft_gives_the_same_logits(name, exported):
    native, base, stock = exported[name]
    error, scale, moved = (
        (a - b).abs().max().item() for a, b in ((stock, native), (native, 0), (native, base))
    )
    print(f"{name}: {error:.1e}, logits up to {scale:.2f}, moved by the adapter by up to {moved:.2f}")
    assert moved > 0.05
    assert error <= 1e-5 * max(1.0, scale)
