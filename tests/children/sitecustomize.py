"""Processes that tests start run this first, because most of their time is imports.

It hides the quantizers, which no test needs there. PEFT imports bitsandbytes and torchao wherever they are installed,
and they import much of torch that nobody else needs: four of ten seconds. Many users have neither.
"""

from __future__ import annotations

import gc
import sys

for name in ("bitsandbytes", "torchao"):
    sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed

# Imports make half a million objects that stay. To look for garbage among them is a fifth of the time.
gc.set_threshold(1_000_000)
