"""Adapters of a rank below the width of their bases."""

from __future__ import annotations

import corefold
from models import wrap

PAIR_CORE = {"r": 3, "width": 10, "depth": 2}


def initialized(base, data, **options):
    model = wrap(base, **{**PAIR_CORE, **options})
    corefold.initialize_bases(model, data, num_batches=4, progress=False)
    return model
