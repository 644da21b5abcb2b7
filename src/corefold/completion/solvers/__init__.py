"""Solvers: each walks a path of low-rank matrices that come ever closer to the observed values."""

from corefold.completion.factors import LowRank
from corefold.completion.solvers.als import ALS
from corefold.completion.solvers.descent import Descent
from corefold.completion.solvers.protocol import CompletionProblem, Solver, Step
from corefold.completion.solvers.schatten import Schatten

__all__ = ["ALS", "CompletionProblem", "Descent", "LowRank", "Schatten", "Solver", "Step"]
