"""Completing a matrix from some of its entries."""

try:
    import numba as _numba  # noqa: F401
    import psutil as _psutil  # noqa: F401
    import scipy as _scipy  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
    import tqdm as _tqdm  # noqa: F401
except ImportError as error:
    raise ImportError(
        "matrix completion needs numba, psutil, scikit-learn, scipy and tqdm; install them with: "
        'pip install "corefold[completion]"'
    ) from error

from corefold.completion.estimator import DeepMatrixCompletion
from corefold.completion.observed import Observed

__all__ = ["DeepMatrixCompletion", "Observed"]
