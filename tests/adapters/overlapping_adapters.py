"""Two adapters of one model that overlap on some layers."""

from __future__ import annotations

from corefold import DeepLoraConfig
from models import inputs, logits, randomise, tiny_llama, wrap

BATCH = {"input_ids": inputs("tiny", rows=5)["input_ids"]}


def overlapping():
    """A Llama whose adapters "one" and "two" share q_proj and differ in rank and depth, both in general position."""
    model = wrap(tiny_llama(), adapter_name="one", target_modules=["q_proj", "up_proj"], r=4, depth=3)
    model.add_adapter(
        "two", DeepLoraConfig(target_modules=["q_proj", "o_proj"], r=6, depth=2, init_scale=0.3)
    )
    randomise(model, size=0.3)
    return model.eval()


def alone(model, name):
    """The logits with one adapter alone, which stays active; with "__base__" those of the base model."""
    if name == "__base__":
        with model.disable_adapter():
            return logits(model, BATCH)
    model.set_adapter(name)
    return logits(model, BATCH)
