"""Floor 0: updates of a weight in few numbers, their bases and ranks. Tensors in, tensors out; torch only."""

from corefold.core.linalg.bases import (
    Bases,
    GradientBases,
    bases_from_gradient,
    bases_from_singular_vectors,
    complete,
    paired_bases,
    principal_angles,
    wide_bases,
)
from corefold.core.linalg.gradient_sketch import GradientSketch
from corefold.core.linalg.moment_sketch import MomentSketch
from corefold.core.linalg.ranks import effective_rank, numerical_rank, stable_rank, widths_by_energy
from corefold.core.linalg.svd import low_rank_svd, significant, with_positive_peaks
from corefold.core.updates.base import Update
from corefold.core.updates.deep_core import DeepCore, start_product
from corefold.core.updates.linear import adapted_linear, fold_pays, switched
from corefold.core.updates.pair_core import PairCore

__all__ = [
    "Bases",
    "DeepCore",
    "GradientBases",
    "GradientSketch",
    "MomentSketch",
    "PairCore",
    "Update",
    "adapted_linear",
    "bases_from_gradient",
    "bases_from_singular_vectors",
    "complete",
    "effective_rank",
    "fold_pays",
    "low_rank_svd",
    "numerical_rank",
    "paired_bases",
    "principal_angles",
    "significant",
    "stable_rank",
    "start_product",
    "switched",
    "wide_bases",
    "widths_by_energy",
    "with_positive_peaks",
]
