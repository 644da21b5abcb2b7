"""Completing a matrix from some of its entries."""

from corefold.completion.estimator import DeepMatrixCompletion

__all__ = ["DeepMatrixCompletion"]
