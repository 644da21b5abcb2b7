"""Floor 1: the theorem as code. Deep factorization by gradient descent, its trace and its prediction; torch only."""

from corefold.dynamics.descent import descend, loss, orthogonal_start, product
from corefold.dynamics.theorem import Blocks, State, invariant_blocks, leading_directions, predict
from corefold.dynamics.trace import Deviation, Snapshot, angles_to_last, deviation, trace

__all__ = [
    "Blocks",
    "Deviation",
    "Snapshot",
    "State",
    "angles_to_last",
    "descend",
    "deviation",
    "invariant_blocks",
    "leading_directions",
    "loss",
    "orthogonal_start",
    "predict",
    "product",
    "trace",
]
