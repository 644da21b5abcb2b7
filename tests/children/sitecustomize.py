"""Processes that tests start run this first: it hides the quantizers, which no test needs there.

PEFT imports bitsandbytes and torchao wherever they are installed, and they import much of torch that nobody else needs:
four of ten seconds. Many users have neither.
"""

from __future__ import annotations

import sys

for name in ("bitsandbytes", "torchao"):
    sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
