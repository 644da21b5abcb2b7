"""The confusion matrix shows shares as colours and counts as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from corefold.report import confusion_matrix, figure_svg


def test_colours_are_shares_of_the_true_class_and_numbers_are_counts():
    ax = confusion_matrix([[3, 1, 0], [0, 2, 0], [0, 0, 0]], ["a", "$b$", "never judged"])
    shares = ax.images[0].get_array()
    assert np.allclose(shares, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert [text.get_text() for text in ax.texts] == ["3", "1", "0", "0", "2", "0", "0", "0", "0"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "$b$", "never judged"]


def test_many_classes_have_no_numbers_and_then_no_names():
    for count, texts, names in ((20, 400, 20), (21, 0, 21), (41, 0, None)):
        ax = confusion_matrix(np.eye(count, dtype=int).tolist(), [f"c{n}" for n in range(count)])
        assert len(ax.texts) == texts
        assert names is None or len(ax.get_xticks()) == names
    assert figure_svg(lambda axes: confusion_matrix([[1]], ["a"], axes)).count("<svg") == 1


def test_counts_that_do_not_fit_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"for each of 2 classes; got \(1, 1\)"):
        confusion_matrix([[1]], ["a", "b"])
