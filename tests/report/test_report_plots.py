from __future__ import annotations

import io
import math
import subprocess
import sys
from functools import partial
from itertools import pairwise
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from simulated import BERT, LLAMA, history, layer_names, still, updates

from corefold.report import (
    LayerUpdate,
    learning_curves,
    numerical_ranks,
    score_comparison,
    update_spectra,
)
from corefold.report.layer_kinds import group_by_kind

SCORES = {"Deep LoRA": [0.861, 0.872, 0.855], "LoRA, rank 8": [0.842, 0.801], "head only": [0.79]}
ONE = updates(["encoder.layer.0.attention.self.query"])
MINILM = updates(layer_names(6))
MANY = updates(layer_names(28, LLAMA) + [f"extra.{number}.proj" for number in range(4)], width=16)
MIXED = [
    still("layer.0.query"),
    *updates(["layer.1.query", "layer.0.key"], width=3),
    still("layer.1.key", width=5),
]
STILL = [still(name) for name in layer_names(1)]
UNRELATED = updates([f"part_{chr(97 + number // 5)}{chr(97 + number % 5)}" for number in range(30)])
ALL_UPDATES = [ONE, MINILM, MANY, MIXED, STILL, UNRELATED]

DRAWINGS = [
    lambda ax: learning_curves(history(), ax),
    lambda ax: score_comparison(SCORES, ax),
    *[partial(plot, data) for plot in (update_spectra, numerical_ranks) for data in ALL_UPDATES],
]


def _fresh() -> Axes:
    return Figure(figsize=(7, 3.6), layout="constrained").subplots()


def _render(ax: Axes) -> None:
    FigureCanvasAgg(ax.figure).print_png(io.BytesIO())


def _texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("draw", DRAWINGS)
class TestEveryPlot:
    def test_draws_on_the_axes_given_and_returns_them(self, draw):
        ax = _fresh()
        assert draw(ax) is ax
        _render(ax)

    def test_brings_a_figure_of_its_own_when_given_none(self, draw):
        ax = draw(None)
        assert isinstance(ax, Axes)
        _render(ax)

    def test_has_a_title_and_names_its_axes(self, draw):
        ax = draw(_fresh())
        assert ax.get_title(loc="left")
        assert ax.get_xlabel()
        assert ax.get_ylabel() or ax.get_yticklabels()

    def test_keeps_the_legend_off_the_data(self, draw):
        ax = draw(_fresh())
        _render(ax)
        legend = ax.get_legend().get_window_extent()
        assert legend.y0 >= ax.get_window_extent().y1
        assert legend.x1 <= ax.figure.bbox.x1
        assert (
            legend.y1 <= ax.title.get_window_extent().y0 or ax._left_title.get_window_extent().y0 >= legend.y1
        )

    def test_works_on_one_of_several_axes(self, draw):
        left, right = Figure(figsize=(14, 4), layout="constrained").subplots(1, 2)
        assert draw(right) is right
        _render(right)
        assert not left.has_data()


class TestLearningCurves:
    def test_points_are_the_records(self):
        records = history()
        ax = learning_curves(records)
        side = ax.figure.axes[1]
        training, validation = ax.lines
        (accuracy,) = side.lines
        for line, key in ((training, "loss"), (validation, "eval_loss"), (accuracy, "eval_accuracy")):
            expected = [(record["step"], record[key]) for record in records if key in record]
            assert_array_equal(line.get_xydata(), expected)
        assert (ax.get_xlabel(), ax.get_ylabel(), side.get_ylabel()) == ("training step", "loss", "accuracy")
        assert _texts(ax.get_legend().get_texts()) == [
            "training loss",
            "validation loss",
            "validation accuracy",
        ]

    def test_without_a_metric_has_one_vertical_axis(self):
        ax = learning_curves(history(metric=None))
        assert ax.figure.axes == [ax]
        assert len(ax.lines) == 2

    def test_of_evaluations_alone_stands_on_the_axes_given(self):
        ax = _fresh()
        learning_curves([{"eval_pearson": 0.5, "step": 1}, {"eval_pearson": 0.7, "step": 2}], ax)
        assert_array_equal(ax.lines[0].get_xydata(), [(1, 0.5), (2, 0.7)])
        assert ax.get_ylabel() == "pearson"
        assert ax.spines["left"].get_visible()

    def test_draws_the_metric_asked_for(self):
        records = [{"eval_accuracy": 0.5, "eval_top_5_f1": 0.25, "step": 1}]
        for name in ("top_5_f1", "eval_top_5_f1"):
            ax = learning_curves(records, metric=name)
            assert ax.lines[0].get_ydata() == [0.25]
            assert ax.get_ylabel() == "top 5 f1"
        with pytest.raises(ValueError, match=r"no 'eval_recall'; its validation entries: eval_accuracy"):
            learning_curves(records, metric="recall")

    def test_counts_the_first_record_of_a_step(self):
        ax = learning_curves([{"eval_f1": 0.5, "step": 9}, {"eval_f1": 0.8, "step": 9}])
        assert_array_equal(ax.lines[0].get_xydata(), [(9, 0.5)])

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_leaves_a_gap_where_the_loss_is_not_finite(self, bad):
        values = [0.7, bad, 0.5]
        ax = learning_curves([{"loss": value, "step": step} for step, value in enumerate(values)])
        assert_array_equal(ax.lines[0].get_ydata(), [0.7, math.nan, 0.5])
        _render(ax)

    def test_of_a_loss_that_is_never_finite_is_empty(self):
        _render(learning_curves([{"loss": math.nan, "step": 1}, {"loss": math.nan, "step": 2}]))

    def test_draws_thousands_of_records(self):
        ax = learning_curves([{"loss": 1 / step, "step": step} for step in range(1, 5001)])
        assert len(ax.lines[0].get_xdata()) == 5000
        _render(ax)

    @pytest.mark.parametrize(
        "records", [[], [{"train_runtime": 1.0, "step": 5}], [{"eval_runtime": 1.0, "step": 5}]]
    )
    def test_of_nothing_is_refused(self, records):
        with pytest.raises(ValueError, match=f"no loss and no eval_.* among the {len(records)} records"):
            learning_curves(records)


class TestUpdateSpectra:
    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_cells_are_the_singular_values(self, data):
        ax = update_spectra(data)
        kinds = group_by_kind([update.name for update in data])
        assert len(ax.images) == len(kinds)
        for kind, image in zip(kinds, ax.images, strict=True):
            cells = image.get_array()
            assert cells.shape == (max(len(update.singular_values) for update in data), len(kind.members))
            for column, member in enumerate(kind.members):
                values = data[member].singular_values
                assert_array_equal(cells[: len(values), column], values)
                assert np.ma.getmaskarray(cells)[len(values) :, column].all()

    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_line_lies_below_the_numerical_rank(self, data):
        ax = update_spectra(data)
        for kind, line in zip(group_by_kind([update.name for update in data]), ax.patches, strict=True):
            ranks = [data[member].numerical_rank for member in kind.members]
            assert_array_equal(line.get_data().values, np.array(ranks) + 0.5)

    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_cells_of_a_layer_stand_where_its_tick_is(self, data):
        ax = update_spectra(data)
        ticks = set(ax.get_xticks(minor=True))
        centers = [
            left + 0.5 + column
            for image in ax.images
            for left in [image.get_extent()[0]]
            for column in range(image.get_array().shape[1])
        ]
        assert ticks <= set(centers)
        assert len(set(centers)) == len(data)
        assert min(np.diff(sorted(centers)), default=1) > 0.999

    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_colours_are_finite_and_zero_has_the_lowest(self, data):
        image = update_spectra(data).images[0]
        shades = image.norm(np.array([0.0, image.norm.vmin, image.norm.vmax]))
        assert_allclose(shades, [0, 0, 1])
        assert image.norm.vmin >= 0.99e-4 * image.norm.vmax

    def test_colours_tell_four_decades_apart(self):
        image = update_spectra(
            [LayerUpdate("a.0.q", torch.tensor([1.0, 0.1, 0.01, 1e-3, 1e-9]), 8, 8, 1)]
        ).images[0]
        assert_allclose(image.norm(image.get_array())[:, 0], [1, 0.75, 0.5, 0.25, 0], atol=1e-6)

    def test_has_a_colour_bar(self):
        ax = update_spectra(MINILM)
        assert ax.figure.axes[1].get_ylabel() == "singular value of the update"

    def test_values_may_require_gradients(self):
        update_spectra([LayerUpdate("a.0.q", torch.ones(2, requires_grad=True), 8, 8, 1)])


class TestNumericalRanks:
    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_points_are_the_ranks(self, data):
        ax = numerical_ranks(data)
        dots = ax.collections[1::2]
        for kind, points in zip(group_by_kind([update.name for update in data]), dots, strict=True):
            assert points.get_label() == kind.label
            ranks = [data[member].numerical_rank for member in kind.members]
            assert_array_equal(points.get_offsets()[:, 1], ranks)
            assert_array_equal(np.diff(points.get_offsets()[:, 0]), np.ones(len(ranks) - 1))

    @pytest.mark.parametrize("data", ALL_UPDATES)
    def test_points_lie_inside(self, data):
        ax = numerical_ranks(data)
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        offsets = np.concatenate([points.get_offsets() for points in ax.collections[1::2]])
        assert (left < offsets[:, 0]).all()
        assert (offsets[:, 0] < right).all()
        assert bottom < 0
        assert top > max(len(update.singular_values) for update in data)

    def test_neighbouring_kinds_differ_in_colour(self):
        colors = [tuple(points.get_facecolor()[0]) for points in numerical_ranks(MINILM).collections[1::2]]
        assert all(one != other for one, other in pairwise(colors))

    @pytest.mark.parametrize(("data", "width"), [(MINILM, 8), (MIXED, 8), (MANY, 16)])
    def test_line_is_the_width(self, data, width):
        assert numerical_ranks(data).lines[0].get_ydata() == [width, width]


@pytest.mark.parametrize("plot", [update_spectra, numerical_ranks])
class TestLayerAxis:
    def test_names_every_kind_and_block(self, plot):
        ax = plot(MINILM)
        labels = [label.replace("\n", "") for label in _texts(ax.get_xticklabels())]
        assert labels == ["query", "key", "value", *BERT[3:]]
        assert _texts(ax.get_xticklabels(minor=True)) == list("012345") * 6

    @pytest.mark.parametrize("data", [MINILM, MANY, MIXED])
    def test_names_do_not_overlap(self, plot, data):
        ax = plot(data, _fresh())
        _render(ax)
        for minor in (False, True):
            boxes = [label.get_window_extent() for label in ax.get_xticklabels(minor=minor)]
            boxes.sort(key=lambda box: box.x0)
            assert all(one.x1 < other.x0 for one, other in pairwise(boxes))

    def test_takes_dollars_and_underscores_as_they_are(self, plot):
        data = updates(["layer.0.$x_1", "layer.0._$"])
        ax = plot(data, _fresh())
        _render(ax)
        assert _texts(ax.get_xticklabels()) == ["$x_1", "_$"]

    def test_of_no_layers_is_refused(self, plot):
        with pytest.raises(ValueError, match="no layers to draw"):
            plot([])


class TestScoreComparison:
    def test_points_are_the_scores(self):
        ax = score_comparison(SCORES)
        points = [collection for collection in ax.collections if len(collection.get_offsets())]
        seeds = [
            entry.get_offsets() for entry in points if entry.get_offsets()[0][1] % 1 == pytest.approx(0.16)
        ]
        assert len(seeds) == 3
        for row, (offsets, values) in enumerate(zip(seeds, SCORES.values(), strict=True)):
            assert_allclose(offsets[:, 0], values)
            assert (offsets[:, 1].round() == row).all()
        assert _texts(ax.get_yticklabels()) == list(SCORES)

    def test_bars_are_mean_and_sample_standard_deviation(self):
        bars = score_comparison(SCORES).containers
        for bar, values in zip(bars, SCORES.values(), strict=True):
            point, _, spread = bar.lines
            assert point.get_xdata() == [mean(values)]
            if len(values) == 1:
                assert not spread
                continue
            ((left, _), (right, _)) = spread[0].get_segments()[0]
            assert (left, right) == pytest.approx(
                (mean(values) - stdev(values), mean(values) + stdev(values))
            )

    def test_writes_the_numbers_beside_the_rows(self):
        assert _texts(score_comparison(SCORES).texts) == ["0.863 ± 0.009", "0.822 ± 0.029", "0.790"]
        assert _texts(score_comparison({"a": [81.25, 83.75]}).texts) == ["82.5 ± 1.8"]

    def test_takes_equal_scores_and_odd_names(self):
        ax = score_comparison({"$1_000": [0.5, 0.5], "<b>": [0.5]}, metric="F$_1")
        _render(ax)
        assert ax.get_xlabel() == "F$_1"

    @pytest.mark.parametrize("scores", [{}, {"a": []}, {"a": [0.5], "b": [math.nan]}])
    def test_without_scores_is_refused(self, scores):
        with pytest.raises(ValueError, match=r"no methods|finite scores"):
            score_comparison(scores)


def test_nothing_imports_pyplot_or_a_training_library():
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from corefold.report import figure_svg, score_comparison, update_spectra, LayerUpdate\n"
        "import torch; one = [LayerUpdate('a.0.q', torch.ones(2), 4, 4, 1)]\n"
        "score_comparison({'a': [0.5, 0.6]}); update_spectra(one); figure_svg(lambda ax: update_spectra(one, ax))\n"
        "assert all(dict.__getitem__(matplotlib.rcParams, key) == dict.__getitem__(before, key) for key in before)\n"
        "print([m for m in ('matplotlib.pyplot', 'transformers', 'peft', 'corefold.finetune') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (out.stdout.strip(), out.stderr) == ("[]", "")
