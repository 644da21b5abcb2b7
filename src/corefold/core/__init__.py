"""Floor 0: factor chains, their bases and spectra. Tensors in, tensors out; torch only."""

from corefold.core.chain import FactorChain, low_rank_svd, start_product
from corefold.core.linear import adapted_linear, fold_pays
from corefold.core.moments import MomentSketch
from corefold.core.sketch import GradientSketch
from corefold.core.spectrum import effective_rank, numerical_rank, stable_rank, widths_by_energy
from corefold.core.subspace import (
    Bases,
    GradientBases,
    bases_from_gradient,
    bases_from_singular_vectors,
    complete,
    paired_bases,
    principal_angles,
    wide_bases,
)

__all__ = [
    "Bases",
    "FactorChain",
    "GradientBases",
    "GradientSketch",
    "MomentSketch",
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
    "stable_rank",
    "start_product",
    "wide_bases",
    "widths_by_energy",
]
