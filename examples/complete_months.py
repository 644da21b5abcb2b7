"""Fill months that are missing altogether: time as side information, by splines.

python examples/complete_months.py

Ten stock prices and indices by month, which Matplotlib ships. A row without an entry is predicted by column means,
unless something is known of it: here its month, which scikit-learn's splines turn into features.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.preprocessing import SplineTransformer

from corefold import DeepMatrixCompletion


def main() -> dict[str, float]:
    """Errors at the hidden months, over the columns' standard deviations, with either way."""
    table = pd.read_csv(
        f"{mpl.get_data_path()}/sample_data/Stocks.csv", comment="#", index_col=0, parse_dates=True
    )
    prices = np.log(table[table.index.day == 1])
    hidden = np.random.default_rng(0).random(len(prices)) < 0.2
    seen = prices.copy()
    seen[hidden] = np.nan
    months = np.arange(len(prices))[:, None]
    splines = SplineTransformer(n_knots=30).fit_transform(months)
    errors = {}
    for name, features in {"column means": None, "time": splines}.items():
        filled = DeepMatrixCompletion(random_state=0).fit_transform(seen, row_features=features)
        wrong = ((filled - prices) / prices.std())[hidden]
        errors[name] = float(np.sqrt(np.nanmean(wrong**2)))
        print(f"{name}: {errors[name]:.3f}")
    return errors


if __name__ == "__main__":
    main()
