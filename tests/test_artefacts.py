"""Files that an earlier version saved load to the last bit: see artefacts/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import corefold  # noqa: F401  # makes Deep LoRA known to PEFT

ARTEFACTS = Path(__file__).parent / "artefacts"


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    """A copy in which paths are those of this machine."""
    folder = Path(shutil.copytree(ARTEFACTS, tmp_path / "artefacts"))
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace("ARTEFACTS", str(folder)))
    manifest = json.loads((folder / "run/manifest.json").read_text())
    sums = {name: hashlib.sha256((folder / "run" / name).read_bytes()).hexdigest() for name in manifest}
    (folder / "run/manifest.json").write_text(json.dumps(sums))
    return folder


def assert_same_bits(one: Path, other: Path) -> None:
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def settings_in(folder: Path) -> dict[str, object]:
    """The content of adapter_config.json, less PEFT's version; sets are written in any order."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    del settings["peft_version"]
    return settings | {"target_modules": sorted(settings["target_modules"])}


@pytest.mark.parametrize("name", ["adapter", "adapter_square"])
def test_an_adapter_saved_before_loads_to_the_last_bit(name: str, artefacts: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import BertModel

    expected = load_file(artefacts / name / "expected.safetensors")
    model = PeftModel.from_pretrained(BertModel.from_pretrained(artefacts / "base"), artefacts / name).eval()
    layers = model.base_model.adapted_layers()
    assert {f"delta.{path}" for path in layers} == {key for key in expected if key.startswith("delta.")}
    for path, layer in layers.items():
        torch.testing.assert_close(
            layer.get_delta_weight("default"), expected[f"delta.{path}"], rtol=1e-6, atol=1e-7
        )
    with torch.no_grad():
        hidden = model(expected["input_ids"]).last_hidden_state
    torch.testing.assert_close(hidden, expected["hidden"], rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert_same_bits(
        tmp_path / "again/adapter_model.safetensors", artefacts / name / "adapter_model.safetensors"
    )
    before, after = (settings_in(folder) for folder in (artefacts / name, tmp_path / "again"))
    assert {key: after[key] for key in before} == before


def test_a_run_saved_before_predicts_the_same(artefacts: Path, tmp_path: Path) -> None:
    from corefold.finetune import load_run, predict
    from corefold.finetune.folder import save_model

    run = load_run(artefacts / "run")
    predicted = predict(run, str(artefacts / "reviews.csv"), progress=False)
    pd.testing.assert_frame_equal(
        predicted, pd.read_csv(artefacts / "run_predictions.csv"), rtol=1e-5, check_dtype=False
    )
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", run)
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert_same_bits(tmp_path / "again" / name, artefacts / "run" / name)


def test_settings_of_a_run_saved_before_are_read(artefacts: Path) -> None:
    from corefold.finetune import RunConfig, load_settings

    config = RunConfig(**load_settings(artefacts / "run/config.yaml"))
    assert (config.rank, config.width, config.lr) == (2, 6, pytest.approx(0.05 / (2 * 3) ** 0.5))


def test_a_completion_saved_before_answers_the_same(tmp_path: Path) -> None:
    from corefold import DeepMatrixCompletion

    expected = np.load(ARTEFACTS / "completion/expected.npz")
    model = DeepMatrixCompletion.load(ARTEFACTS / "completion/model.safetensors")
    assert model.rank_ == expected["rank"]
    np.testing.assert_array_equal(model.singular_values_, expected["singular_values"])
    rows, columns = np.indices(expected["X"].shape).reshape(2, -1)
    np.testing.assert_allclose(model.entries(rows, columns), expected["entries"], rtol=1e-12)
    np.testing.assert_allclose(model.transform(expected["X"]), expected["filled"], rtol=1e-12)
    lower, upper = model.intervals(rows, columns, coverage=0.8)
    np.testing.assert_allclose(lower, expected["lower"], rtol=1e-12)
    np.testing.assert_allclose(upper, expected["upper"], rtol=1e-12)
    model.save(tmp_path / "again.safetensors")
    assert_same_bits(tmp_path / "again.safetensors", ARTEFACTS / "completion/model.safetensors")
