"""Matrices in a user's files: read with their labels, and written with their gaps filled.

`reading` opens a file and `writing` writes one; `frames` and `arrays` hold the two kinds of content, tables and numpy's
arrays, and `results` makes tables of predictions.
"""

try:
    import pandas as _pandas  # noqa: F401
except ImportError as error:
    raise ImportError(
        'reading matrices from files needs pandas; install it with: pip install "corefold[cli]"'
    ) from error
