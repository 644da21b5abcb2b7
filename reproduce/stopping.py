"""When a run of gradient descent ends."""

from __future__ import annotations

from dataclasses import dataclass

DIVERGED = 10.0  # the relative error beyond which a run has diverged


@dataclass(frozen=True)
class StoppingRule:
    """A run ends at this relative error, or after so many iterations or processor seconds."""

    error: float
    iterations: int
    seconds: float = float("inf")
