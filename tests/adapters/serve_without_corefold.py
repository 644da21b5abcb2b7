"""A server without corefold: `test_lora_serving.py` runs this in a process of its own.

Each task takes the folder that the test has filled and returns logits by name.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def base(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder / "llama")


def logits(model: nn.Module, folder: Path, name: str, **options: object) -> Tensor:
    return model.eval()(**load_file(folder / name / "inputs.safetensors"), **options).logits


def load(folder: Path) -> dict[str, Tensor]:
    """Each way to load: onto a base model, and by the base's name in the adapter's configuration."""
    path = (folder / "minilm" / "base.txt").read_text()
    minilm = AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)
    models = {"minilm": PeftModel.from_pretrained(minilm, folder / "minilm" / "adapter")}
    for name in ("0", "1", "head"):
        models[f"llama {name}"] = PeftModel.from_pretrained(base(folder), folder / "adapters" / name)
        models[f"auto {name}"] = AutoPeftModelForCausalLM.from_pretrained(folder / "adapters" / name)
    return {
        name: logits(model, folder, name if name == "minilm" else "llama") for name, model in models.items()
    }


def mix(folder: Path) -> dict[str, Tensor]:
    """Five adapters in one model: each row of one batch with its own, and each adapter alone.

    PEFT mixes no adapter that has a saved head with ones that have none.
    """
    first, *others = [path.name for path in sorted((folder / "adapters").iterdir()) if path.name != "head"]
    model = PeftModel.from_pretrained(base(folder), folder / "adapters" / first, adapter_name=first)
    for name in others:
        model.load_adapter(folder / "adapters" / name, adapter_name=name)
    names = (folder / "rows.txt").read_text().split()
    found = {"mixed": logits(model, folder, "llama", adapter_names=names)}
    for name in (first, *others):
        model.set_adapter(name)
        found[name] = logits(model, folder, "llama")
    return found


def swap(folder: Path) -> dict[str, Tensor]:
    """One adapter after the other in the same place, then the same in a model compiled once."""
    found = {}
    for kind in ("plain", "compiled"):
        model = PeftModel.from_pretrained(base(folder), folder / "adapters" / "0").eval()
        if kind == "compiled":
            prepare_model_for_compiled_hotswap(model, target_rank=8)
            model = torch.compile(model, backend="eager", dynamic=False)
        found[f"{kind} 0"] = logits(model, folder, "llama")
        with torch._dynamo.config.patch(error_on_recompile=True):
            for name in ("1", "2", "0"):
                hotswap_adapter(model, str(folder / "adapters" / name), "default", torch_device="cpu")
                found[f"{kind} {name}"] = logits(model, folder, "llama")
        scalings = [float(m.scaling["default"]) for m in model.modules() if hasattr(m, "lora_A")]
        assert scalings == [1.0] * len(scalings), scalings
    return found


@torch.no_grad()
def main(folder: Path) -> None:
    for task in (load, mix, swap):
        try:
            found = task(folder)
        except Exception:  # The test of this task reports it.
            traceback.print_exc()
        else:
            save_file(
                {name: tensor.contiguous() for name, tensor in found.items()},
                folder / f"{task.__name__}.safetensors",
            )


if __name__ == "__main__":
    assert "corefold" not in sys.modules
    sys.modules["corefold"] = None  # type: ignore[assignment]  # from here on importing it fails
    main(Path(sys.argv[1]))
