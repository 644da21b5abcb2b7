"""Models that tests run on: the real ones of `benchmarks.shared.pretrained`, and tiny random ones.

`find(name)` and the fixtures (`minilm_dir`...) skip the test where the package is missing. Loaded models are copies: a
test may do to them what it likes.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from benchmarks.shared.pretrained import FINDERS, load_pretrained


def find(name: str) -> Path:
    """The folder of a real model; skips the test where its package is missing."""
    try:
        # Workers unpack a model once, not all at once.
        with FileLock(Path(gettempdir(), f"corefold-tests-{name}.lock")), gguf_read_once():
            return FINDERS[name]()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """transformers reads a gguf file three times and lists its names once a layer; here it does each once.

    A read takes five seconds, nearly all of them in the vocabulary.
    """
    import gguf

    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, cache(getattr(gguf, name)))
        yield


@cache
def _loaded(name: str) -> nn.Module:
    find(name)
    return load_pretrained(name)


def load(name: str, *, copied: bool = True) -> Any:
    """A fresh copy of a real model, in evaluation mode: a classifier of 3 labels, for smollm2 a language model."""
    return copy.deepcopy(_loaded(name)) if copied else _loaded(name)


def tiny_llama(**options: Any) -> Any:
    """A random Llama of 2 layers, a vocabulary of 50 and sides that all differ, in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": 50,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **options})).eval()


def inputs(name: str, rows: int = 2, tokens: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Token numbers and a mask (the last row is one token shorter) for a model of this name."""
    low, high = (3, 50) if name == "tiny" else (1000, 20000)
    stream = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, high, (rows, tokens), generator=stream)
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def batches(
    name: str, count: int = 2, rows: int = 4, tokens: int = 8, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Batches with labels: a class each row for the classifiers, the tokens themselves for language models."""
    made = [inputs(name, rows, tokens, seed + i) for i in range(count)]
    for batch in made:
        ids = batch["input_ids"]
        batch["labels"] = ids if name in ("tiny", "smollm2") else ids.sum(1) % 3
    return made


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor], **options: Any) -> Tensor:
    """The model's logits on a batch, labels left out."""
    fed = {key: value for key, value in batch.items() if key != "labels"}
    return model(**fed, **options).logits


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, size: float = 0.03, only: str | None = None) -> None:
    """Put every chain in general position: random factors and bases, the update `size` times the weight's norm."""
    from corefold.adapters import DeepLoraLayer

    stream = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if not isinstance(layer, DeepLoraLayer):
            continue
        for name, factors in layer.deeplora_factors.items():
            if only not in (None, name):
                continue
            left, right = layer.tensors(name)[1:]
            for tensor in (factors, left, right):
                noise = torch.randn(tensor.shape, generator=stream, dtype=torch.float64)
                tensor.copy_(noise / tensor.shape[-1] ** 0.5)
            padding = getattr(layer.get_base_layer(), "padding_idx", None)
            if padding is not None:  # an embedding's row that never trains
                right[padding] = 0
            left.mul_(size * layer.weight.float().norm() / layer.get_delta_weight(name).norm())


def wrap(base: nn.Module, adapter_name: str = "default", **options: Any) -> Any:
    """`base` with a Deep LoRA adapter on its attention, its core square and of width 4, unless `options` say otherwise."""
    from peft import get_peft_model

    from corefold.adapters import DeepLoraConfig

    targets = {"bert": ["query", "value"], "mpnet": ["q", "v"], "llama": ["q_proj", "v_proj"]}
    kind = getattr(getattr(base, "config", None), "model_type", None)
    settings = {"r": 4, "width": None, "depth": 3, "target_modules": targets.get(kind), **options}
    return get_peft_model(base, DeepLoraConfig(**settings), adapter_name=adapter_name)


def layers(model: nn.Module) -> dict[str, Any]:
    """Every Deep LoRA layer by module name."""
    from corefold.adapters import DeepLoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, DeepLoraLayer)}


def adapter_state(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """Copies of an adapter's factors and bases, by layer and part."""
    return {
        f"{path}.{part}": getattr(layer, part)[adapter_name].detach().clone()
        for path, layer in layers(model).items()
        for part in layer.adapter_layer_names
        if adapter_name in getattr(layer, part)
    }


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal names, dtypes and bits."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def fresh_python(code: str, *arguments: object) -> str:
    """The output of a new interpreter that runs `code`; fails with its error output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    return find("minilm")


@pytest.fixture(scope="session")
def mpnet_dir() -> Path:
    return find("mpnet")


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    return find("smollm2")


@pytest.fixture
def minilm() -> Any:
    """all-MiniLM-L6-v2 with a fresh head of 3 labels, in evaluation mode."""
    return load("minilm")


@pytest.fixture
def llama() -> Any:
    """A tiny random Llama, in evaluation mode."""
    return tiny_llama()
