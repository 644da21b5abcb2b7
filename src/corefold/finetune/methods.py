"""Every method by its name: `corefold.finetune.config` has the list of names, this file the methods."""

from __future__ import annotations

from typing import Any

from corefold.finetune import peers
from corefold.finetune.deep_lora import DEEP_LORA
from corefold.finetune.method import Method

# The names are those of `MethodName`.
METHODS: dict[str, Method[Any]] = {
    "lora": peers.LORA,
    "deep-lora": DEEP_LORA,
    "lora-ga": peers.LORA_GA,
    "lora-one": peers.LORA_ONE,
    "eva": peers.EVA,
    "pissa": peers.PISSA,
    "adalora": peers.ADALORA,
    "dora": peers.DORA,
    "vera": peers.VERA,
    "full": peers.FULL,
    "head": peers.HEAD,
    "embeddings": peers.EMBEDDINGS,
    "untouched": peers.UNTOUCHED,
}
