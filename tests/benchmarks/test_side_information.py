"""`benchmarks.completion.side` on ratings made up here."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.completion import side


def ratings():
    stream = np.random.default_rng(0)
    users, films = (each.ravel() for each in np.indices((40, 30)))
    age = stream.normal(size=40)
    of_users = pd.DataFrame({"age": age, "job": np.where(stream.random(40) < 0.5, "cook", "smith")})
    of_films = pd.DataFrame({"year": stream.normal(size=30), "drama": stream.random(30) < 0.5})
    values = np.clip(3 + age[users] * stream.normal(size=30)[films], 1, 5)
    return side.Ratings(users, films, values, of_users, of_films)


def test_a_draw_hides_whole_users_whole_films_and_some_of_the_rest():
    all_ratings = ratings()
    seen, hidden = all_ratings.drawn(np.random.default_rng(1))
    assert not np.isin(hidden["cold users"].users, seen.users).any()
    assert not np.isin(hidden["cold films"].films, seen.films).any()
    assert np.isin(hidden["warm"].users, seen.users).all()
    both = 4 * 3  # of a hidden user and a hidden film
    assert len(seen.values) + sum(len(part.values) for part in hidden.values()) == 40 * 30 - both


def test_errors_are_those_of_each_kind_and_features_help_cold_users(monkeypatch):
    monkeypatch.setitem(
        side.METHODS, "constant", (lambda *_: lambda users, _: np.full(len(users), 3.0), [{}, {}])
    )
    measured = {name: side.measured(ratings(), name, 1) for name in ("constant", "deep")}
    _, hidden = ratings().drawn(np.random.default_rng(1))
    for kind, part in hidden.items():
        assert measured["constant"]["rmse"][kind] == np.sqrt(np.mean((3.0 - part.values) ** 2))
    assert len(measured["constant"]["tries"]) == 2
    assert measured["deep"]["rmse"]["cold users"] < 0.7 * measured["constant"]["rmse"]["cold users"]
