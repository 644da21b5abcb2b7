"""The examples run as a newcomer would run them."""

from __future__ import annotations

import runpy
from pathlib import Path

from peft import PeftConfig

from command import NEGATIVE, POSITIVE, write_csv

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_trainer_example(minilm_dir, tmp_path, capsys):
    rows = [
        (f"{text} ({i})", label)
        for i in range(8)
        for label, part in enumerate((NEGATIVE, POSITIVE))
        for text in part
    ]
    table = write_csv(tmp_path / "train.csv", ["text", "label"], rows)
    main = runpy.run_path(str(EXAMPLES / "trainer.py"))["main"]
    main(str(minilm_dir), str(table), str(tmp_path / "out"), steps=4)
    assert "trainable params" in capsys.readouterr().out
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).peft_type == "DEEPLORA"
    assert PeftConfig.from_pretrained(str(tmp_path / "out/lora")).peft_type == "LORA"
