"""Adapted models for the checks under torch.compile."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from models import inputs, layers, randomise, tiny_llama, wrap

ALL = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
FEW = {**ALL, "target_modules": ["q_proj", "down_proj"]}
"""Each adapted layer takes a second to compile with its backward pass, and the mechanics of two are those of seven."""


def one_block():
    return tiny_llama(num_hidden_layers=1)


def two_adapters():
    """A Llama that carries "default" and "second", both in general position."""
    import corefold

    model = wrap(one_block(), **ALL)
    model.add_adapter("second", corefold.DeepLoraConfig(r=3, target_modules=["q_proj", "down_proj"]))
    randomise(model)
    return model


def compiled_inside(model):
    """Compile the model inside PEFT's wrapper, in place; return the counter of its graphs."""
    counter = CompileCounterWithBackend("eager")
    model.get_base_model().compile(fullgraph=True, backend=counter)
    return counter


def other_layers():
    """Adapted models with layers of every kind, their inputs, and the tensor in their outputs."""
    from transformers import GPT2Config, GPT2LMHeadModel

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=24, n_head=4, n_layer=2, n_positions=32)).eval()
    convolutions = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(9, 4, (1, 3)))
    linear = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7))
    ids = inputs("tiny")["input_ids"]
    yield wrap(gpt2, target_modules=["c_attn", "c_fc"]), ids, lambda output: output.logits
    yield wrap(one_block(), target_modules=["embed_tokens", "q_proj"]), ids, lambda output: output.logits
    yield wrap(convolutions, target_modules=["0", "2"]), torch.randn(2, 6, 9, 8), lambda output: output
    yield wrap(Attention(), target_modules=["attention"]), torch.randn(2, 5, 12), lambda output: output
    yield wrap(linear, target_modules=["0", "1"]), torch.randn(3, 6), lambda output: output


class Mixed(nn.Module):
    """An embedding, a convolution and a linear layer in a row."""

    def __init__(self):
        super().__init__()
        self.table, self.conv, self.linear = nn.Embedding(11, 8), nn.Conv1d(8, 6, 3), nn.Linear(6, 5)

    def forward(self, ids):
        return self.linear(self.conv(self.table(ids).mT).mT)


def beside_a_broken_adapter(width):
    """A compiled model with an adapter "sound", and one of NaN whose core is square (no width) or a pair."""
    import corefold

    options = {"r": 2, "width": width, "depth": 2, "target_modules": ["table", "conv", "linear"]}
    model = wrap(Mixed(), "sound", **options).eval()
    model.add_adapter("broken", corefold.DeepLoraConfig(**options))
    randomise(model)
    with torch.no_grad():
        for layer in layers(model).values():
            for tensor in layer.tensors("broken"):
                tensor.fill_(torch.nan)
    return model, compiled_inside(model)
