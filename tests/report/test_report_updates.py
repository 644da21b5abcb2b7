from __future__ import annotations

import math

import pytest
import torch
from simulated import BERT, layer_names, still

from corefold.report import LayerUpdate
from corefold.report.layer_kinds import group_by_kind


def _update(values: torch.Tensor, out_features: int = 6, in_features: int = 5, size: int = 44) -> LayerUpdate:
    return LayerUpdate("layer.0.query", values, out_features, in_features, size)


class TestMeasures:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_agree_with_the_dense_update(self, dtype):
        dense = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        update = _update(torch.linalg.svdvals(dense).to(dtype))
        tolerance = 4 * torch.finfo(dtype).eps
        assert update.energy == pytest.approx(dense.norm().item(), rel=tolerance)
        assert update.stable_rank == pytest.approx(
            (dense.norm() ** 2 / torch.linalg.matrix_norm(dense, 2) ** 2).item(), rel=2 * tolerance
        )
        shares = torch.linalg.svdvals(dense) / torch.linalg.svdvals(dense).sum()
        entropy = -(shares * shares.log()).sum().item()
        assert update.effective_rank == pytest.approx(math.exp(entropy), rel=2 * tolerance)

    def test_numerical_rank_counts_values_above_one_percent_of_the_largest(self):
        assert _update(torch.tensor([5.0, 0.06, 0.049, 0.0])).numerical_rank == 2

    def test_of_a_layer_that_has_not_moved_are_zero(self):
        update = still("layer.0.key")
        assert update.numerical_rank == update.stable_rank == update.effective_rank == update.energy == 0

    def test_take_values_that_require_gradients(self):
        assert _update(torch.tensor([3.0, 4.0]).flip(0).requires_grad_()).energy == pytest.approx(5)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (torch.tensor([1.0, math.nan]), "NaN or infinite"),
        (torch.tensor([math.inf, 1.0]), "NaN or infinite"),
        (torch.tensor([1.0, 2.0]), "largest first"),
        (torch.tensor([1.0, -2.0]), "non-negative"),
        (torch.ones(2, 2), r"shape \(width,\)"),
        (torch.ones(0), r"shape \(width,\)"),
        (torch.ones(6), r"6 x 5 weight; got \(6,\)"),
    ],
)
def test_values_that_belong_to_no_update_are_refused(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        _update(values)


@pytest.mark.parametrize("sizes", [(0, 5, 44), (6, 0, 44), (6, 5, -1)])
def test_sizes_that_belong_to_no_layer_are_refused(sizes):
    with pytest.raises(ValueError, match=r"layer\.0\.query: the weight's sides"):
        _update(torch.ones(1), *sizes)


class TestGroupByKind:
    def test_every_layer_is_in_one_kind_in_order(self):
        names = layer_names(6)
        kinds = group_by_kind(names)
        assert sorted(member for kind in kinds for member in kind.members) == list(range(36))
        for kind, suffix in zip(kinds, BERT, strict=True):
            assert [
                names[member].endswith(f"{block}.{suffix}")
                for member, block in zip(kind.members, kind.blocks, strict=True)
            ]
            assert kind.blocks == ("0", "1", "2", "3", "4", "5")

    @pytest.mark.parametrize(
        ("names", "labels"),
        [
            (layer_names(2), [*["query", "key", "value"], *BERT[3:]]),
            (
                ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"],
                ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
            ),
            (["encoder.block.0.layer.0.q", "decoder.block.0.layer.0.q"], ["encoder q", "decoder q"]),
            (["a.3.experts.5.w1", "a.3.experts.5.w2"], ["w1", "w2"]),
            (["classifier", "pooler.dense"], ["classifier", "dense"]),
            (["net.0", "net.1", "head"], ["net", "head"]),
            (["7"], ["*"]),
        ],
    )
    def test_labels_are_short_and_distinct(self, names, labels):
        assert [kind.label for kind in group_by_kind(names)] == labels

    def test_blocks_are_all_numbers_of_the_path(self):
        assert [kind.blocks for kind in group_by_kind(["a.3.experts.5.w", "a.4.experts.0.w", "head"])] == [
            ("3.5", "4.0"),
            ("",),
        ]
