"""Shapes in corefold.core's annotations are checked in every test; users pay nothing for them."""

import jaxtyping

jaxtyping.install_import_hook("corefold.core", "beartype.beartype")  # before anything imports corefold

import os  # noqa: E402

# Read when torch is first imported: its threads sleep while they wait, or tests crawl beside another busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from command import finished, reviews  # noqa: E402, F401
from models import llama, minilm, minilm_dir, mpnet_dir, smollm2_dir  # noqa: E402, F401
