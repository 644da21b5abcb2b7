"""How long an input may be, by the tables of models that count positions in different ways."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    NystromformerConfig,
    OPTConfig,
    RobertaConfig,
    T5Config,
)

from corefold.finetune.positions import Positions, checkpoint_positions, table_positions

SIDES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 50}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": (BertConfig(max_position_embeddings=20, **SIDES), 20),
    "roberta": (RobertaConfig(max_position_embeddings=20, **SIDES), 18),
    "mpnet": (MPNetConfig(max_position_embeddings=20, **SIDES), 18),
    "nystromformer": (NystromformerConfig(max_position_embeddings=20, **SIDES), 20),
    "opt": (OPTConfig(max_position_embeddings=20, ffn_dim=16, word_embed_proj_dim=16, **SIDES), 20),
    "gpt2": (GPT2Config(n_positions=20, **GPT2), 20),
    "bart": (BartConfig(max_position_embeddings=20, **BART), 20),
    "llama": (LlamaConfig(max_position_embeddings=20, **SIDES), 20),
    "t5": (T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50), None),
}
ROTARY = {"llama", "t5"}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_longest_input_works_and_one_token_more_does_not(family, tmp_path):
    from transformers import AutoModel

    config, longest = CONFIGS[family]
    config.save_pretrained(tmp_path)
    found = checkpoint_positions(str(tmp_path))
    assert found.most == longest
    assert (found.table is None) == (family in ROTARY)
    if family in ROTARY:
        return
    model = AutoModel.from_config(config).eval()
    assert table_positions(model) == found.table
    with torch.no_grad():
        model(input_ids=torch.full((1, found.most), 7))
        if family != "nystromformer":  # It pads to whole segments.
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, found.most + 1), 7))


def test_nothing_is_known_of_a_gguf_file_or_an_unknown_architecture(tmp_path):
    assert checkpoint_positions("model.gguf") == Positions()
    (tmp_path / "config.json").write_text('{"model_type": "of tomorrow"}')
    assert checkpoint_positions(str(tmp_path)).most is None
