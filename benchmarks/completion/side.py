"""What features of users and films are worth: errors of ratings, of users and of films that no rating is known of.

    python -m benchmarks.completion.side             # 5 draws of MovieLens 100K
    python -m benchmarks.completion.side --summary   # what the file holds

Of each draw a tenth of the users, a tenth of the films and a tenth of all other ratings are hidden: "warm" ratings have
a user and a film with others. All methods get age, gender and occupation of users, genres and year of films, encoded
alike. DeepMatrixCompletion has its defaults. The peers choose among their settings on a second draw of the same kind
from the seen ratings, for each kind of error by itself. Peers need a Python that has them: pip install cmfrec myfm.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.completion.packaged_data import packaged_bytes
from benchmarks.completion.run import measured_code
from benchmarks.shared.arguments import benchmark_parser
from benchmarks.shared.results import ResultFile, cell_name
from corefold import DeepMatrixCompletion
from corefold.completion.feature_encoding import FeatureEncoder
from corefold.completion.feature_tables import FeatureTable

QUESTION = "What are features of users and films worth, where ratings are known and where none are?"
KINDS = ("warm", "cold users", "cold films")
SHARE, SCALE = 0.1, (1, 5)
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ratings:
    """Ratings by the places of users and films, and the features of all of these."""

    users: np.ndarray
    films: np.ndarray
    values: np.ndarray
    of_users: pd.DataFrame
    of_films: pd.DataFrame

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.of_users), len(self.of_films)

    def part(self, chosen: np.ndarray) -> Ratings:
        """Some of the ratings."""
        return Ratings(
            self.users[chosen], self.films[chosen], self.values[chosen], self.of_users, self.of_films
        )

    def drawn(self, stream: np.random.Generator) -> tuple[Ratings, dict[str, Ratings]]:
        """The seen ratings, and the hidden ones of each kind."""
        height, width = self.shape
        cold_user = np.isin(self.users, stream.choice(height, int(SHARE * height), replace=False))
        cold_film = np.isin(self.films, stream.choice(width, int(SHARE * width), replace=False))
        warm = (stream.random(len(self.values)) < SHARE) & ~cold_user & ~cold_film
        hidden = dict(zip(KINDS, (warm, cold_user & ~cold_film, cold_film & ~cold_user), strict=True))
        seen = self.part(~(warm | cold_user | cold_film))
        return seen, {kind: self.part(chosen) for kind, chosen in hidden.items()}

    def encoded(self) -> tuple[np.ndarray, np.ndarray]:
        """Features as numbers."""
        numbers = []
        for side, frame, other in (("row", self.of_users, 1), ("column", self.of_films, 1)):
            table = FeatureTable.of(side, frame)
            numbers.append(FeatureEncoder.of(table, other).encode(table, np.arange(len(frame))))
        return numbers[0], numbers[1]


def movielens() -> Ratings:
    """MovieLens 100K, as recbole ships it."""
    ratings, users, films = (_file(name) for name in ("inter", "user", "item"))
    users, films = users.set_index("user_id"), films.set_index("item_id")
    genres = films["class"].fillna("").str.get_dummies(" ").astype(bool)
    year = pd.to_numeric(films["release_year"], errors="coerce")
    return Ratings(
        users.index.get_indexer(ratings["user_id"]),
        films.index.get_indexer(ratings["item_id"]),
        ratings["rating"].to_numpy(float),
        users[["age", "gender", "occupation"]],
        genres.assign(year=year),
    )


def _file(name: str) -> pd.DataFrame:
    content = packaged_bytes("recbole", f"recbole/dataset_example/ml-100k/ml-100k.{name}")
    table = pd.read_csv(io.BytesIO(content), sep="\t")
    return table.set_axis([column.split(":")[0] for column in table.columns], axis=1)


def deep(seen: Ratings, setting: dict[str, Any], seed: int) -> Predict:
    features = {} if setting else {"row_features": seen.of_users, "column_features": seen.of_films}
    model = DeepMatrixCompletion(random_state=seed)
    model.fit((seen.users, seen.films, seen.values), shape=seen.shape, **features)
    return model.entries


def cmfrec(seen: Ratings, setting: dict[str, Any], seed: int) -> Predict:
    from cmfrec import CMF  # pyright: ignore[reportMissingImports]

    of_users, of_films = seen.encoded()
    model = CMF(**setting, nthreads=1, random_state=seed + 1, verbose=False, handle_interrupt=False)
    model.fit(
        sp.coo_matrix((seen.values, (seen.users, seen.films)), shape=seen.shape), U=of_users, I=of_films
    )
    mean = seen.values.mean()
    return lambda users, films: np.nan_to_num(model.predict(users, films), nan=mean)


def myfm(seen: Ratings, setting: dict[str, Any], seed: int) -> Predict:
    from myfm import MyFMRegressor  # pyright: ignore[reportMissingImports]

    height, width = seen.shape
    of_users, of_films = (sp.csr_matrix(each) for each in seen.encoded())
    users_seen, films_seen = np.isin(np.arange(height), seen.users), np.isin(np.arange(width), seen.films)
    user_codes = sp.diags(
        users_seen.astype(float)
    ).tocsr()  # A code that was never seen would be a random vector.
    film_codes = sp.diags(films_seen.astype(float)).tocsr()

    def coded(users: np.ndarray, films: np.ndarray) -> sp.csr_matrix:
        parts = [user_codes[users], film_codes[films], of_users[users], of_films[films]]
        return sp.hstack(parts).tocsr()

    model = MyFMRegressor(rank=setting["rank"], random_seed=seed)
    with redirect_stderr(io.StringIO()):  # its progress bar
        model.fit(coded(seen.users, seen.films), seen.values, n_iter=setting["n_iter"])
    return lambda users, films: model.predict(coded(users, films))


Method = tuple[Callable[[Ratings, dict[str, Any], int], Predict], list[dict[str, Any]]]
METHODS: dict[str, Method] = {
    "deep": (deep, [{}]),
    "deep without features": (deep, [{"features": False}]),
    "cmfrec": (
        cmfrec,
        [
            {"k": k, "lambda_": weight, "w_user": side, "w_item": side}
            for k in (10, 40)
            for weight in (3.0, 10.0, 30.0)
            for side in (0.3, 1.0)
        ],
    ),
    "myfm": (myfm, [{"rank": rank, "n_iter": 200} for rank in (5, 10, 20)]),
}


def main() -> None:
    parser = benchmark_parser(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--summary", action="store_true", help="print what the file holds")
    parser.add_argument("--again", action="store_true", help="measure the cells that the file holds, too")
    options = parser.parse_args()
    results = ResultFile(options.out, question=QUESTION)
    if not options.summary:
        ratings = movielens()
        for seed in range(options.seeds):
            for method in options.methods.split(","):
                name = cell_name({"seed": seed, "method": method})
                if options.again or name not in results.cells:
                    cell = {"seed": seed, "method": method, **measured(ratings, method, seed)}
                    results.put(name, cell | measured_code())
                    print(cell, flush=True)
    print(summary(results.cells.values()))


def measured(ratings: Ratings, method: str, seed: int) -> dict[str, Any]:
    """Errors of a method on one draw, by kind, and its seconds with tuning."""
    stream = np.random.default_rng(seed)
    seen, hidden = ratings.drawn(stream)
    fit, settings = METHODS[method]
    began, tries = time.perf_counter(), []
    if len(settings) > 1:
        fitted, held = seen.drawn(stream)
        tries = [{**setting, **errors(fit(fitted, setting, seed), held)} for setting in settings]
    chosen, found = {}, {}
    for kind in KINDS:
        best = min(range(len(settings)), key=lambda place: tries[place][kind]) if tries else 0
        if best not in found:
            found[best] = errors(fit(seen, settings[best], seed), hidden)
        chosen[kind] = settings[best]
    places = {kind: settings.index(setting) for kind, setting in chosen.items()}
    rmse = {kind: found[place][kind] for kind, place in places.items()}
    return {"rmse": rmse, "seconds": time.perf_counter() - began, "chosen": chosen, "tries": tries}


def errors(predict: Predict, hidden: dict[str, Ratings]) -> dict[str, float]:
    """Root mean square errors of predictions within the scale."""
    return {
        kind: float(np.sqrt(np.mean((np.clip(predict(part.users, part.films), *SCALE) - part.values) ** 2)))
        for kind, part in hidden.items()
    }


def summary(cells: Iterable[dict[str, Any]]) -> str:
    """A line for each method: means over draws, with standard deviations."""
    table = pd.DataFrame({"method": cell["method"], **cell["rmse"]} for cell in cells)
    lines = [f"{'':24}" + "".join(f"{kind:>18}" for kind in KINDS)]
    for method, part in table.groupby("method", sort=False):
        figures = (f"{fmean(part[kind]):.4f} +- {stdev(part[kind]):.4f}" for kind in KINDS if len(part) > 1)
        lines.append(f"{method:24}" + "".join(f"{each:>18}" for each in figures))
    return "\n".join(lines)


def side_table(results: dict[str, Any]) -> str:
    """The same in Markdown."""
    table = pd.DataFrame({"method": cell["method"], **cell["rmse"]} for cell in results["cells"].values())
    lines = [
        f"| features of users and films, {len(table) // table['method'].nunique()} draws | "
        + " | ".join(KINDS)
        + " |"
    ]
    lines.append("| --- |" + " ---: |" * len(KINDS))
    means = table.groupby("method", sort=False).mean()
    for method, row in means.iterrows():
        best = (
            f"**{value:.3f}**" if value == means[kind].min() else f"{value:.3f}"
            for kind, value in row.items()
        )
        lines.append(f"| {method} | " + " | ".join(best) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
