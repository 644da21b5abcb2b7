"""Solvers: each walks a path of low-rank matrices that meet the observed values ever closer."""

from corefold.completion.solvers.als import ALS
from corefold.completion.solvers.descent import Descent
from corefold.completion.solvers.schatten import Schatten
from corefold.completion.solvers.protocol import Problem, Solver, Step

__all__ = ["ALS", "Descent", "Problem", "Schatten", "Solver", "Step"]
