"""Deep LoRA's registration with PEFT, which must never cost the user the `import peft` that sets it off."""

from __future__ import annotations

import sys
import warnings


def register_with_peft() -> None:
    """Add Deep LoRA to PEFT's table of methods; where that fails, warn in one line and leave PEFT alone.

    The error itself comes back with the first name that needs PEFT, such as `corefold.DeepLoraConfig`.
    """
    try:
        import corefold.adapters  # noqa: F401 (its import registers)
    except Exception as error:  # whatever an unknown version of PEFT or transformers raises
        versions = ", ".join(
            f"{name} {_loaded_version(name)}" for name in ("corefold", "peft", "transformers")
        )
        reason = " ".join(str(error).split())
        warnings.warn(
            f"corefold cannot add Deep LoRA to PEFT ({versions}): {type(error).__name__}: {reason}. PEFT works without "
            'it. Versions that fit together: pip install --upgrade "corefold[peft]"',
            RuntimeWarning,
            stacklevel=2,
        )


def _loaded_version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", "not loaded"))
