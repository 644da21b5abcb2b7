"""The paper's claims run again, at sizes that take no time."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.shared.results import read
from reproduce.completion import run as completion
from reproduce.theorem import run as theorem
from reproduce.theorem.claims import claims as theorem_claims


def test_the_theorem_s_claims_agree_on_small_matrices(run_main, monkeypatch, tmp_path, capsys):
    sides = {"square": (10, 10), "tall": (12, 7)}
    small: Any = {"rank": 2, "steps": 60, "every": 20}
    grid = {
        f"{name}, depth {depth}, decay 0.01": theorem.TheoremSetting(*shape, depth=depth, decay=0.01, **small)
        for name, shape in sides.items()
        for depth in (2, 3, 4)
    }
    monkeypatch.setattr(theorem, "GRID", grid)
    monkeypatch.setattr(theorem, "GRADIENT", {"first gradient": theorem.TheoremSetting(12, 7, **small)})
    monkeypatch.setattr(theorem, "SMALL", {"2r core": theorem.TheoremSetting(12, 7, spread=1.0, **small)})
    monkeypatch.setattr(
        theorem, "ANGLES", theorem.TheoremSetting(10, 10, rank=2, init_scale=0.1, steps=800, every=40)
    )
    for _ in range(2):
        run_main(theorem, "--out", tmp_path)
    assert capsys.readouterr().out.count("first gradient:") == 1, "a cell that was there was run again"
    result = read(tmp_path / "result.json")
    assert {row["status"] for row in result["claims"][:4]} == {"agrees"}
    assert [row["status"] for row in result["claims"][4:]] == ["in part", "agrees", "agrees"]
    assert "<svg" in (tmp_path / "figure.svg").read_text()

    # A claim fails where its figure does.
    result["cells"]["tall, depth 3, decay 0.01"]["worst"]["gap"] = 1e-9
    assert [row["status"] for row in theorem_claims(result["cells"])[:4]] == ["agrees"] * 3 + ["differs"]


def test_completion_runs_part_by_part_and_says_what_it_did_not_run(run_main, monkeypatch, tmp_path):
    for name, value in {
        "SIDES": {False: (30,), True: (1000,)},
        "INIT": {False: 0.1, True: 1e-3},
        "RANK": 1,
        "SHARE": 0.5,
        "TARGET": 0.05,
        "GAMMAS": (0.0, 0.5, 400.0),
        "GIVEN_RANKS": (2,),
        "WIDTHS": (20,),
        "UNITS": (1.0, 8.0),
        "UNSCALED_GAMMAS": (0.25, 1.0, 32.0),
    }.items():
        monkeypatch.setattr(completion, name, value)
    short = ("--out", tmp_path, "--iterations", 300, "--seeds", 1)
    run_main(completion, *short, "--only", "speed")
    first = read(tmp_path / "result.json")
    run_main(completion, *short)
    result = read(tmp_path / "result.json")
    assert {name: result["cells"][name] for name in first["cells"]} == first["cells"]

    cells = result["cells"]
    assert all(cell["met"] for name, cell in cells.items() if name.startswith("speed"))
    assert cells["gamma, d=30, gamma=0.5"]["met"]
    assert not cells["gamma, d=30, gamma=0"]["met"]
    assert cells["gamma, d=30, gamma=400"]["diverged"]
    # Units change nothing but what gamma means.
    same = [cells[f"scaling, sigma={unit}, gamma={gamma}"] for unit, gamma in ((1, 1), (8, 0.25))]
    assert same[0]["error_all"] == pytest.approx(same[1]["error_all"], rel=1e-5)
    assert {form for cell in cells.values() if (form := cell.get("form"))} == {
        "compressed",
        "wide",
        "random bases",
        "narrow",
    }
    status = {row["claim"]: row["status"] for row in result["claims"]}
    assert status["The same at the paper's size from its init_scale, 1e-3"] == "not run"
    assert status["Compressed descent comes to the error faster than wide"] != "not run"
    before = [row for row in first["claims"] if row["status"] == "not run"]
    assert len(before) > list(status.values()).count("not run")


def test_an_unknown_part_is_refused(run_main, capsys):
    with pytest.raises(SystemExit):
        run_main(completion, "--only", "gama")
    assert "--only: takes speed, gamma" in capsys.readouterr().err
