"""Other tools load runs: `test_portable.py` runs this once, in a process where corefold cannot be imported.

It takes a JSON list of folders, runs the code of each one's model card, calls what else the folder's users call, and
prints what came out, by folder and call.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

TEXTS = ["a text", "another"]


def by_card(folder: str) -> dict[str, Any]:
    """The values that the code of the model card computes."""
    from huggingface_hub import ModelCard

    text = ModelCard.load(f"{folder}/README.md").text
    code = text.rsplit("```python\n", 1)[1].split("```")[0].replace("PATH_TO_THIS_FOLDER", folder)
    values: dict[str, Any] = {}
    exec(code, values)
    numbers = [name for name in ("numbers", "probabilities", "logits") if name in values]
    words = [name for name in ("tags", "text") if name in values]
    return {
        **{f"card {name}": values[name].tolist() for name in numbers},
        **{f"card {name}": values[name] for name in words},
        "card dtype": str(next(values["model"].parameters()).dtype),
    }


def by_pipeline(folder: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The scores of the classes, or the number, in the order of config.json."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder, model_kwargs=arguments)
    order = classify.model.config.id2label
    rows = [{each["label"]: each["score"] for each in row} for row in classify(TEXTS, top_k=None)]
    return {"pipeline": [[row[order[i]] for i in range(len(order))] for row in rows]}


def by_peft(folder: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The logits of the adapter on its base."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    auto = AutoModelForSequenceClassification.from_pretrained(base, **arguments)
    model = PeftModel.from_pretrained(auto, folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return {"peft": model(**batch).logits.tolist()}


def by_setfit(folder: str) -> dict[str, Any]:
    """The names of the classes, and a copy that SetFit wrote."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(folder)
    model.save_pretrained(f"{folder}-by-setfit")
    return {"setfit": model.predict(TEXTS)}


CALLS = {"card": by_card, "pipeline": by_pipeline, "peft": by_peft, "setfit": by_setfit}


def main(plan: list[dict[str, Any]]) -> None:
    found: dict[str, dict[str, Any]] = {}
    for entry in plan:
        values = found.setdefault(entry["folder"], {})
        for name, arguments in entry["calls"].items():
            try:
                values |= CALLS[name](entry["folder"], *map(of_json, arguments))
            except Exception:  # The test of this call reports it.
                values[f"{name} failed"] = traceback.format_exc()
    print("\n" + json.dumps(found))


def of_json(arguments: dict[str, Any]) -> dict[str, Any]:
    """JSON makes words of the numbers of classes."""
    return {k: {int(i): n for i, n in v.items()} if k == "id2label" else v for k, v in arguments.items()}


if __name__ == "__main__":
    assert "corefold" not in sys.modules
    sys.modules["corefold"] = None  # type: ignore[assignment]  # from here on importing it fails
    main(json.loads(sys.stdin.read()))
