"""The models whose training steps are measured, and random batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.peers import BaseModel
from benchmarks.shared.pretrained import load_pretrained

LLAMAS = {  # shapes of Llama 3.2; weights are random
    "llama-tiny": (64, 96, 2, 4, 2, 512),
    "llama-1b": (2048, 8192, 16, 32, 8, 128256),
    "llama-3b": (3072, 8192, 28, 24, 8, 128256),
}
FIRST_TOKEN = 1000  # tokenizers have their special tokens below it


def load(name: str, device: str) -> nn.Module:
    """The pretrained model, or a random llama: float32 on a CPU, bfloat16 elsewhere."""
    if name in LLAMAS:
        return random_llama(*LLAMAS[name], device=device)
    model: Any = load_pretrained(name).to(device)
    model.config.use_cache = False  # as Trainer sets it
    return model


def random_llama(
    hidden: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int, device: str
) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.device(device):
        return LlamaForCausalLM._from_config(
            config, dtype=torch.float32 if device == "cpu" else torch.bfloat16
        )


def base_model(module: nn.Module, rank: int) -> BaseModel:
    """A classifier whose head trains, or a language model without one; bfloat16 under autocast, as in Trainer."""
    causal = not hasattr(module, "classifier")
    dtype = next(module.parameters()).dtype
    return BaseModel(
        module,
        loss,
        head=None if causal else "classifier",
        task_type="CAUSAL_LM" if causal else "SEQ_CLS",
        rank=rank,
        autocast=torch.bfloat16 if dtype == torch.bfloat16 else None,
    )


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def random_batch(module: Any, rows: int, tokens: int, seed: int, device: str) -> dict[str, Tensor]:
    """Random tokens and labels; no row is padded."""
    stream = torch.Generator().manual_seed(seed)
    vocabulary = module.config.vocab_size
    low = min(FIRST_TOKEN, vocabulary // 4)
    ids = torch.randint(low, vocabulary, (rows, tokens), generator=stream)
    labels = torch.randint(3, (rows,), generator=stream) if hasattr(module, "classifier") else ids
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: tensor.to(device) for key, tensor in batch.items()}
