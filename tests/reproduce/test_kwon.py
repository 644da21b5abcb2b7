"""The claims of Kwon et al. run again, at sizes that take no time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.shared.results import read
from reproduce.kwon import datasets, hidden_layer, recovery
from reproduce.kwon import run as kwon
from reproduce.kwon.claims import claims


@pytest.fixture
def small_sizes(monkeypatch):
    """Sizes that take seconds."""
    training = hidden_layer.TrainingPlan(hidden=24, width=20, steps=60, rows=256, rates=(3e-2,))
    small = {
        "SIDE": 14,
        "RANK": {"factorization": 2, "completion": 1},
        "SHARE": 0.8,
        "RATES": (0.4,),
        "FIXED_RATE": 0.4,
    }
    small |= {"TUNING_SEEDS": 1, "STEPS": 1500, "SENSED": {False: (8, 1, 120)}, "DIGITS": training}
    for name, value in small.items():
        monkeypatch.setattr(kwon, name, value)
    # The number of steps grows with its inverse.
    monkeypatch.setattr(recovery, "INIT_SCALE", 0.03)


@pytest.mark.usefixtures("small_sizes")
def test_kwon_s_core_recovers_matrices_and_trains_as_a_layer(run_main, tmp_path, capsys):
    parts = "factorization,completion,sensing,digits"
    for _ in range(2):
        run_main(kwon, "--only", parts, "--seeds", 1, "--out", tmp_path)
    assert capsys.readouterr().out.count("sensing, seed=0:") == 1, "a cell that was there was run again"
    result = read(tmp_path / "result.json")
    cells = result["cells"]
    for part in parts.split(",")[:3]:
        forms = cells[f"{part}, seed=0"]["forms"]
        assert all(forms[form]["met"] for form in ("wide", "compressed")), part
        assert forms["compressed"]["steps"] < forms["random bases"]["steps"], part
    # 2 d r + (L - 2) r^2 against L d^2.
    factorized = cells["factorization, seed=0"]
    assert factorized["forms"]["compressed"]["parameters"] == 2 * 14 * 4 + 4**2
    assert factorized["forms"]["wide"]["parameters"] == 3 * 14**2
    layer = cells["digits, seed=0"]["forms"]
    assert layer["compressed"]["parameters"] == 2 * 24 * 20 + 20**2
    assert min(layer[form]["accuracy"] for form in ("dense", "compressed")) > 0.6  # a guess is right in 0.1
    status = [row["status"] for row in result["claims"]]
    assert (status[0], status[3], status[-1]) == ("agrees", "not run", "not run")

    # A claim fails where its figure does.
    factorized["worst_over_wide"] = 1.1
    layer["compressed"]["accuracy"] = layer["dense"]["accuracy"] - 0.1
    layer["wide"]["cpu_seconds"] = layer["compressed"]["cpu_seconds"]
    failed = [row["status"] for row in claims(cells)]
    assert (failed[0], failed[-2]) == ("differs", "differs")


def test_the_spectral_start_is_downhill_and_sees_only_the_surrogate():
    planted = recovery.completion(12, 2, 0.5, 0)
    left, factors, right = recovery.start(planted, recovery.FORMS["compressed"], 0)
    u, _, vh = torch.linalg.svd(planted.see(planted.target))
    leading = recovery.INIT_SCALE**3 * u[:, :4] @ vh[:4]
    torch.testing.assert_close(left @ factors[0] @ right.mT, leading, rtol=0, atol=1e-18)
    # What sensing sees is, on average over measurements, the matrix itself.
    sensed = recovery.sensing(5, 1, 40_000, 0)
    torch.testing.assert_close(sensed.see(sensed.target), sensed.target, rtol=0, atol=0.05)


def test_film_rows_are_split_by_seed_and_judged_on_the_same(monkeypatch, minilm_dir):
    for name, value in {"TEST_ROWS": 6, "POOL_ROWS": 10, "TRAIN_ROWS": 8}.items():
        monkeypatch.setattr(datasets, name, value)
    datasets._embedded.cache_clear()
    one, other = datasets.films(0), datasets.films(1)
    datasets._embedded.cache_clear()
    assert one.x.shape == (8, 384)
    assert set(torch.cat([one.y, one.test_y]).tolist()) == {0, 1}
    assert torch.equal(one.test_x, other.test_x)
    assert not torch.equal(one.x, other.x)
    held = one.held_out()
    assert torch.equal(torch.cat([held.x, held.test_x]), one.x)


def test_kwon_s_other_size_is_of_sensing_alone(run_main, capsys):
    with pytest.raises(SystemExit):
        run_main(kwon, "--paper")
    assert "give --only sensing" in capsys.readouterr().err
