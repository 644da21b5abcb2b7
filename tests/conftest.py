"""Shapes in corefold.core's annotations are checked in every test; users pay nothing for them."""

import jaxtyping

jaxtyping.install_import_hook("corefold.core", "beartype.beartype")  # before anything imports corefold

from models import llama, minilm, minilm_dir, mpnet_dir, smollm2_dir  # noqa: E402, F401
