"""Shapes in the annotations of corefold.completion are checked, as tests/conftest.py does for corefold.core."""

import jaxtyping

MODULES = ["biases", "factors", "model", "observed", "solvers.descent", "solvers.schatten", "streaming"]
jaxtyping.install_import_hook([f"corefold.completion.{name}" for name in MODULES], "beartype.beartype")
