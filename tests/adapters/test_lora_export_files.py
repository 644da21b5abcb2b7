"""The folder of an exported LoRA: whole or missing, with embeddings that were resized."""

from __future__ import annotations

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import corefold
from corefold.adapters import to_lora
from models import logits, randomise, tiny_llama, wrap

WEIGHTS = "adapter_model.safetensors"


def with_new_words(folder):
    """A model of tied embeddings with more words than its base: PEFT saves both its tables, which share their memory."""
    if not folder.exists():
        tiny_llama(tie_word_embeddings=True).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.resize_token_embeddings(53, mean_resizing=False)
    return model


def test_tied_embeddings_after_a_resize(tmp_path):
    base = tmp_path / "base"
    model = wrap(with_new_words(base), task_type="CAUSAL_LM")
    randomise(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[50:].normal_()
    with pytest.warns(UserWarning, match="embedding layer has been resized"):
        corefold.export_lora(model, tmp_path / "direct")
    with pytest.warns(UserWarning, match="embedding layer has been resized"):
        model.save_pretrained(tmp_path / "deep")
    config = PeftConfig.from_pretrained(tmp_path / "deep")
    to_lora(config, load_file(tmp_path / "deep" / WEIGHTS), tmp_path / "saved")
    direct, saved = (load_file(tmp_path / name / WEIGHTS) for name in ("direct", "saved"))
    assert direct.keys() == saved.keys()
    assert sum("embed_tokens" in name or "lm_head" in name for name in direct) == 2
    assert all(torch.equal(direct[name], saved[name]) for name in direct)
    words = {"input_ids": torch.tensor([[5, 51, 52, 7]])}
    lora = PeftModel.from_pretrained(with_new_words(base), tmp_path / "direct").eval()
    torch.testing.assert_close(logits(lora, words), logits(model, words), atol=1e-5, rtol=0)


def test_a_failed_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    model = wrap(tiny_llama())
    randomise(model)
    monkeypatch.setattr("corefold.adapters.lora_export.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        corefold.export_lora(model, tmp_path / "lora")
    assert not [*tmp_path.iterdir()]
