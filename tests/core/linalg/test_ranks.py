from __future__ import annotations

import itertools
import math

import pytest
import torch

from cases import DTYPES, gaussian, matrix_with_spectrum
from corefold.core import effective_rank, numerical_rank, stable_rank, widths_by_energy

MEASURES = [numerical_rank, stable_rank, effective_rank]


def _values(*numbers: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measure", MEASURES)
class TestEveryMeasure:
    @pytest.mark.parametrize("n", [1, 2, 7, 64])
    def test_of_equal_values_is_their_number(self, measure, dtype, n):
        assert measure(0.3 * torch.ones(n, dtype=dtype)) == pytest.approx(n, rel=1e-5)

    @pytest.mark.parametrize("n", [1, 2, 7])
    def test_of_one_value_is_one(self, measure, dtype, n):
        assert measure(_values(2.5, *[0.0] * (n - 1), dtype=dtype)) == pytest.approx(1, rel=1e-6)

    def test_of_zero_is_zero(self, measure, dtype):
        assert measure(torch.zeros(4, dtype=dtype)) == 0

    @pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
    def test_ignores_scale(self, measure, dtype, scale):
        values = _values(3, 2, 1, 0.5, 0, dtype=dtype)
        assert measure(scale * values) == pytest.approx(measure(values), rel=1e-5)

    def test_ignores_order(self, measure, dtype):
        values = _values(3, 2, 1, 0.5, 0, dtype=dtype)
        assert measure(values.flip(0)) == pytest.approx(measure(values), rel=1e-6)

    def test_lies_between_one_and_the_rank(self, measure, dtype):
        values = gaussian(9, dtype=dtype).abs()
        values[3:5] = 0
        assert 1 < measure(values) <= 7


def test_stable_rank_by_hand():
    assert stable_rank(_values(2, 1, 1)) == pytest.approx((4 + 1 + 1) / 4, rel=1e-14)


def test_effective_rank_by_hand():
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert effective_rank(_values(2, 1, 1, 0)) == pytest.approx(math.exp(entropy), rel=1e-14)


def test_tiny_values_count_only_numerically():
    values = _values(1, 1, 1e-6)
    assert numerical_rank(values) == 3
    assert stable_rank(values) == pytest.approx(2, rel=1e-9)
    assert 2 < effective_rank(values) < 2.0001


@pytest.mark.parametrize(("rtol", "rank"), [(0.0, 4), (0.05, 3), (0.5, 1), (0.49, 2)])
def test_numerical_rank_counts_above_rtol(rtol, rank):
    assert numerical_rank(_values(2, 1, 0.2, 1e-20), rtol) == rank


def test_numerical_rank_default_is_a_few_roundings():
    step = 4 * torch.finfo(torch.float64).eps
    assert numerical_rank(_values(1, 1.1 * step, 0.9 * step, 0)) == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "in_"), [(30, 20), (20, 30), (25, 25)])
def test_numerical_rank_of_a_real_matrix(out, in_, dtype):
    matrix = matrix_with_spectrum(out, in_, [5.0, 1.0, 0.3, 0.01])
    assert numerical_rank(torch.linalg.svdvals(matrix.to(dtype))) == 4


class TestWidthsByEnergy:
    def best(self, spectra: list[torch.Tensor], budget: int, widest: list[int]) -> float:
        """The most energy of all choices of directions, by trying them all."""
        choices = itertools.product(*(range(1, max(1, limit // 2) + 1) for limit in widest))
        return max(
            _carried(spectra, directions)
            for directions in choices
            if sum(min(2 * k, limit) for k, limit in zip(directions, widest, strict=True)) <= budget
        )

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("budget", [6, 7, 9, 12, 16, 30])
    @pytest.mark.parametrize("widest", [[10, 10, 10], [4, 7, 12], [1, 8, 3], [2, 2, 12]], ids=str)
    def test_no_other_choice_carries_more(self, widest, budget, seed):
        spectra = [gaussian(6, seed=10 * seed + i).abs().sort(descending=True).values for i in range(3)]
        widths = widths_by_energy(spectra, budget, widest)
        assert sum(widths) <= budget
        assert all(min(2, limit) <= width <= limit for width, limit in zip(widths, widest, strict=True))
        assert all(width % 2 == 0 or limit == 1 for width, limit in zip(widths, widest, strict=True))
        directions = [max(1, width // 2) for width in widths]
        assert _carried(spectra, directions) == pytest.approx(self.best(spectra, budget, widest), rel=1e-12)
        left = budget - sum(widths)
        full = all(limit - width < 2 for width, limit in zip(widths, widest, strict=True))
        assert left < 2 or full

    def test_by_hand(self):
        spectra = [_values(9, 8, 7, 1), _values(2, 1.5, 1), _values(0.5, 0.1)]
        assert widths_by_energy(spectra, 6, [8, 8, 8]) == [2, 2, 2]
        assert widths_by_energy(spectra, 10, [8, 8, 8]) == [6, 2, 2]
        assert widths_by_energy(spectra, 13, [8, 8, 8]) == [6, 4, 2]
        assert widths_by_energy(spectra, 13, [5, 8, 8]) == [4, 6, 2]
        assert widths_by_energy(spectra, 99, [8, 3, 1]) == [8, 2, 1]

    def test_equal_energy_goes_to_the_first(self):
        assert widths_by_energy([_values(1, 1, 1), _values(1, 1, 1)], 6, [6, 6]) == [4, 2]

    def test_zero_gradients_share_what_there_is(self):
        assert sum(widths_by_energy([torch.zeros(4), torch.zeros(4)], 8, [8, 8])) == 8


def _carried(spectra: list[torch.Tensor], directions: list[int] | tuple[int, ...]) -> float:
    return sum(
        values[:count].square().sum().item() for values, count in zip(spectra, directions, strict=True)
    )
