"""Classify digits half of whose pixels are missing: gaps filled by deep matrix completion, or by column means.

python examples/complete.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from corefold import DeepMatrixCompletion


def main(rows: int | None = None) -> dict[str, float]:
    """Cross-validated accuracy with either way to fill the gaps, on the first `rows` digits or all of them."""
    pixels, labels = (part[:rows] for part in load_digits(return_X_y=True))
    gaps = np.random.default_rng(0).random(pixels.shape) < 0.5
    pixels[gaps] = np.nan
    accuracy = {}
    for name, filler in {
        "column means": SimpleImputer(),
        "completed": DeepMatrixCompletion(random_state=0),
    }.items():
        pipeline = make_pipeline(filler, StandardScaler(), LogisticRegression(max_iter=1000))
        accuracy[name] = float(cross_val_score(pipeline, pixels, labels, cv=3).mean())
        print(f"{name}: {accuracy[name]:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
