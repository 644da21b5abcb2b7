"""Embeddings for retrieval: what counts as a match in loss and scores, a run, and what other tools load."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from torch import nn

from command import corefold, refused, write_csv
from corefold.finetune import InputError, RunConfig, Task, evaluate, load_run, merge, predict
from corefold.finetune import finetune as tune
from corefold.finetune.data import Columns
from corefold.finetune.evaluation.intervals import share_interval
from corefold.finetune.evaluation.retrieval import one_order_scores, retrieval_scores
from corefold.finetune.run_data import read_tables
from corefold.finetune.tasks.kinds import kind_of

TASK = Task("embedding", "m", "cosine", Columns("anchor", "positive", "negative"))
KIND = kind_of(TASK)
WORDS = ["red", "green", "blue", "old", "new", "big", "small", "warm", "cold", "loud"]
OTHERS = ["tree", "house", "river", "king", "song", "bread", "glass", "north", "seven", "paper"]
ROWS = [*zip(WORDS, OTHERS, OTHERS[1:] + OTHERS[:1], strict=True)]  # A random model finds them by chance.


@pytest.fixture
def triplets(tmp_path):
    return write_csv(tmp_path / "triplets.csv", ["anchor", "positive", "negative"], ROWS)


@pytest.fixture
def pairs(tmp_path):
    return write_csv(tmp_path / "pairs.csv", ["anchor", "positive"], [row[:2] for row in ROWS])


def tables_of(rows, tmp_path, model, **settings):
    path = write_csv(tmp_path / "t.csv", ["anchor", "positive", "negative"], rows)
    return read_tables(RunConfig(model=str(model), train=str(path), **settings))


def embeddings(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def cross_entropy(outputs, texts, left_out):
    """The loss, written out: each anchor against `texts`, places of (row, side) but those in `left_out`."""
    unit = nn.functional.normalize(outputs.double(), dim=-1)
    losses = []
    for row in range(len(outputs)):
        places = [place for place in texts if (row, *place) not in left_out]
        logits = torch.stack([20 * unit[row, 0] @ unit[place] for place in places])
        losses.append(nn.functional.cross_entropy(logits, torch.tensor(places.index((row, 1)))))
    return torch.stack(losses).mean().item()


def test_the_loss_tells_a_pair_from_the_other_rows():
    outputs = embeddings(3, 3, 5)
    texts = [(row, side) for side in (1, 2) for row in range(3)]
    numbers = torch.tensor([[0, 1, 11, 21], [0, 2, 12, 22], [0, 3, 13, 23]])
    assert KIND.loss(outputs, numbers).item() == pytest.approx(cross_entropy(outputs, texts, set()))
    pairs = KIND.loss(outputs[:, :2], numbers[:, :3]).item()
    assert pairs == pytest.approx(cross_entropy(outputs, texts[:3], set()))


@pytest.mark.parametrize(
    ("numbers", "left_out"),
    [
        ([[0, 1, 11, 21], [0, 2, 11, 22], [0, 3, 13, 23]], {(0, 1, 1), (1, 0, 1)}),  # one text matches two
        (
            [[0, 1, 11, 21], [0, 1, 12, 22], [0, 3, 13, 23]],
            {(0, 1, 1), (1, 0, 1)},
        ),  # an anchor with two texts
        ([[0, 1, 11, 21], [0, 2, 1, 22], [0, 3, 13, 23]], {(0, 1, 1)}),  # the anchor itself is a text
        ([[0, 1, 11, 12], [0, 1, 12, 22], [0, 3, 13, 23]], {(0, 1, 1), (1, 0, 1), (0, 0, 2), (1, 0, 2)}),
        (
            [[0, 1, 11, 11], [0, 2, 12, 22], [0, 3, 13, 23]],
            {(0, 0, 2)},
        ),  # a gap repeats the text that matches
    ],
)
def test_texts_that_match_are_no_negatives(numbers, left_out):
    outputs = embeddings(3, 3, 5).requires_grad_()
    loss = KIND.loss(outputs, torch.tensor(numbers))
    texts = [(row, side) for side in (1, 2) for row in range(3)]
    assert loss.item() == pytest.approx(cross_entropy(outputs.detach(), texts, left_out))
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_scores_are_those_of_sentence_transformers():
    rng = np.random.default_rng(0)
    queries, texts = rng.integers(0, 25, 40), rng.integers(100, 130, 40)
    vectors = {number: rng.normal(size=6) for number in [*queries, *texts]}
    outputs = np.array([[vectors[q], vectors[t]] for q, t in zip(queries, texts, strict=True)])
    labels = np.stack([np.zeros(40, dtype=int), queries, texts], axis=1)
    found = KIND.scores(TASK, outputs, labels)

    matches: dict[str, set[str]] = {}
    for q, t in zip(queries, texts, strict=True):
        matches.setdefault(str(q), set()).add(str(t))
    library = InformationRetrievalEvaluator(
        {f"{row} {q}": str(q) for row, q in enumerate(queries)},
        {str(t): str(t) for t in texts},
        {f"{row} {q}": matches[str(q)] for row, q in enumerate(queries)},
    )
    unit = {number: vector / np.linalg.norm(vector) for number, vector in vectors.items()}
    ranked = [
        [{"corpus_id": str(t), "score": unit[q] @ unit[t]} for t in {*texts.tolist()}]
        for q in queries.tolist()
    ]
    expected = library.compute_metrics(ranked)
    assert found == {
        "accuracy@1": pytest.approx(expected["accuracy@k"][1]),
        "accuracy@10": pytest.approx(expected["accuracy@k"][10]),
        "mrr@10": pytest.approx(expected["mrr@k"][10]),
        "ndcg@10": pytest.approx(expected["ndcg@k"][10]),
    }
    assert 0 < found["accuracy@1"] < found["mrr@10"] < found["accuracy@10"] < 1


def test_tables_have_corpora_of_their_own_and_no_text_finds_itself():
    outputs = np.eye(3)[[[0, 1], [1, 0], [2, 2]]]
    alone = retrieval_scores(outputs[:, 0], outputs[:, 1], np.array([[0, 1, 11], [0, 2, 12], [0, 3, 13]]))
    assert alone["mrr@10"][2] == 1
    assert (alone["accuracy@1"][:2] == 0).all()
    apart = retrieval_scores(outputs[:, 0], outputs[:, 1], np.array([[0, 1, 11], [1, 2, 12], [2, 3, 13]]))
    assert (apart["accuracy@1"] == 1).all()
    # The first anchor is the second row's text.
    itself = retrieval_scores(outputs[:, 0], outputs[:, 1], np.array([[0, 1, 11], [0, 2, 1], [0, 3, 13]]))
    assert itself["mrr@10"][0] == 1


def test_one_order_for_all_is_right_as_often_as_chance_or_the_most_frequent_text():
    different = np.array([[0, row, 100 + row] for row in range(20)])
    found = one_order_scores(different)
    assert found["accuracy@1"] == pytest.approx(1 / 20)
    assert found["accuracy@10"] == pytest.approx(10 / 20)
    assert found["mrr@10"] == pytest.approx(sum(1 / place for place in range(1, 11)) / 20)
    frequent = np.array([[0, row, 100 + max(row, 5)] for row in range(20)])
    assert KIND.constant_answer(TASK, [], frequent.tolist())["accuracy@1"] == pytest.approx(6 / 20)


def test_intervals_draw_anchors_and_keep_the_corpus():
    rng = np.random.default_rng(0)
    labels = np.array([[0, row, 100 + row] for row in range(60)])
    outputs = rng.normal(size=(60, 2, 8))
    outputs[:, 1] += 0.7 * outputs[:, 0]
    scores, intervals = KIND.scores(TASK, outputs, labels), KIND.intervals(TASK, outputs, labels, 0)
    assert intervals.keys() == scores.keys()
    assert intervals["accuracy@1"] == share_interval(round(60 * scores["accuracy@1"]), 60)
    low, high = intervals["mrr@10"]
    middle, error = scores["mrr@10"], retrieval_scores_std(outputs, labels) / 60**0.5
    assert (middle - low, high - middle) == pytest.approx((1.96 * error, 1.96 * error), rel=0.25)


def retrieval_scores_std(outputs, labels):
    unit = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    return retrieval_scores(unit[:, 0], unit[:, 1], labels)["mrr@10"].std()


def test_columns_by_their_names_are_the_task(triplets, pairs, tiny):
    for path, options in ((triplets, " --label negative"), (pairs, "")):
        tables = read_tables(RunConfig(model=str(tiny), train=str(path)))
        assert tables.task.kind == "embedding"
        assert tables.task.columns.label == ("negative" if options else None)
        assert tables.notes == (
            f"columns: --text anchor --text-pair positive{options}, by their names; these options change that",
            "task embedding: 'positive' holds the texts that match 'anchor'; --task changes that",
        )
    named = RunConfig(
        model=str(tiny), train=str(triplets), text="anchor", text_pair="negative", task="embedding"
    )
    assert read_tables(named).task.columns == Columns("anchor", "negative")
    assert not read_tables(named).notes


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (
            [("a", "b", "c"), ("d", "e", "e")],
            {},
            "row 2: columns 'positive' and 'negative' hold the same text",
        ),
        ([("a", "b", "c"), ("d", "", "e")], {}, "row 2: column 'positive' is empty"),
        ([("a", "b", ""), ("", "c", "")], {}, "row 2: column 'anchor' is empty"),
        (ROWS, {"head": "own"}, "leave out --head own"),
        (ROWS, {"pair": "joint"}, "leave out --pair joint"),
        (
            ROWS,
            {"text": "anchor", "task": "embedding"},
            "--text-pair must name the column of the texts that match",
        ),
        (ROWS, {"text": "anchor", "text_pair": "positive"}, "--task embedding"),
        (ROWS, {"class_weight": "balanced"}, None),
        (
            [("a", "x", ""), ("b", "x", "")],
            {"text": "anchor", "text_pair": "positive", "task": "embedding"},
            "all rows have the same text in 'positive'",
        ),
        (
            ROWS,
            {"text": "anchor", "text_pair": "positive", "task": "embedding", "batch_size": 1},
            "--batch-size 1 leaves no other text",
        ),
    ],
)
def test_rows_and_settings_that_teach_nothing_are_refused(tmp_path, tiny, rows, settings, words):
    if words is None:
        path = write_csv(tmp_path / "t.csv", ["anchor", "positive", "negative"], rows)
        outcome = corefold(
            "finetune", "--model", tiny, "--train", path, "--class-weight", "balanced", "-o", tmp_path / "out"
        )
        return refused(outcome, "--class-weight balanced")
    with pytest.raises(InputError, match=words):
        tables_of(rows, tmp_path, tiny, **settings)


def test_a_row_without_negative_repeats_the_text_that_matches(tmp_path, tiny):
    tables = tables_of([("a", "b", ""), ("c", "d", "e"), ("f", "7", "  ")], tmp_path, tiny)
    assert tables.train["negative"].tolist() == ["b", "e", "7"]


def test_a_run_learns_and_predicts_what_sentence_transformers_encodes(triplets, tiny, tmp_path):
    out = tmp_path / "out"
    config = RunConfig(
        model=str(tiny),
        train=str(triplets),
        eval=str(triplets),
        method="lora",
        rank=8,
        lr=0.02,
        steps=20,
        max_length=8,
    )
    metrics = tune(config, out, progress=False).metrics
    assert metrics["baseline"]["accuracy@1"] == pytest.approx(0.1)
    assert metrics["after"]["mrr@10"] > metrics["before"]["mrr@10"] + 0.2
    assert metrics["judged_by"]["score"] == "mrr@10"
    run = load_run(out)
    found = evaluate(run, str(triplets), batch_size=3, progress=False)
    assert found["mrr@10"] == pytest.approx(metrics["after"]["mrr@10"])

    both = predict(run, str(triplets), progress=False)
    one = write_csv(
        tmp_path / "one.csv", ["id", "anchor"], [(i, row[0]) for i, row in enumerate(ROWS)] + [(10, "")]
    )
    told = corefold("predict", out, one, "-o", tmp_path / "one-out.csv")
    assert told.code == 0, told.err
    assert "has no column 'positive': rows get the embedding of 'anchor'" in " ".join(
        (told.out + told.err).split()
    )
    written = pd.read_csv(tmp_path / "one-out.csv", keep_default_na=False)
    assert written["embedding"].iloc[-1] == ""
    anchors = np.array([json.loads(cell) for cell in written["embedding"].iloc[:-1]])

    lines: list[str] = []
    merge(run, tmp_path / "merged", tell=lines.append)
    assert not lines  # A sentence encoder is all that the run is.
    card = (tmp_path / "merged/README.md").read_text()
    assert "model.similarity(embeddings, embeddings)" in card
    assert "numbers" not in card
    for folder in (tmp_path / "merged", out / "lora"):
        encoder = SentenceTransformer(str(folder), device="cpu")
        embedded = [encoder.encode([row[i] for row in ROWS]) for i in (0, 1)]
        np.testing.assert_allclose(embedded[0], anchors, atol=1e-5)
        similar = encoder.similarity_pairwise(*embedded)
        np.testing.assert_allclose(similar, both["similarity"].to_numpy(dtype=float), atol=1e-5)


def test_each_fold_ranks_its_own_texts(pairs, tiny, tmp_path):
    config = RunConfig(
        model=str(tiny), train=str(pairs), method="lora", steps=2, max_length=8, batch_size=4, folds=2
    )
    metrics = tune(config, tmp_path / "out", progress=False).metrics
    assert [fold["baseline"]["accuracy@1"] for fold in metrics["folds"]["folds"]] == [0.2, 0.2]
    low, high = metrics["intervals"]["mrr@10"]
    assert low <= metrics["after"]["mrr@10"] <= high


def test_compare_trains_it_by_methods_that_read_the_inputs(triplets, tiny, tmp_path):
    outcome = corefold(
        "compare", "--model", tiny, "--train", triplets, "--eval", triplets, "--methods", "eva,lora-ga",
        "--ranks", 2, "--seeds", 1, "--steps", 1, "--max-length", 8, "--jobs", 1, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    cells = [json.loads(line) for line in (tmp_path / "out/cells.jsonl").read_text().splitlines()]
    assert [cell["error"] for cell in cells] == [None] * 2
    assert {cell["main"] for cell in cells} == {"mrr@10"}


def test_kept_outputs_leave_out_the_text_that_does_not_match():
    outputs = embeddings(4, 3, 5)
    assert KIND.kept_outputs((outputs,), torch.zeros(4, 4)).equal(outputs[:, :2])
    alone = KIND.predictions(replace(TASK), outputs[:, :1].numpy())
    assert np.allclose(alone["embedding"], outputs[:, 0])
