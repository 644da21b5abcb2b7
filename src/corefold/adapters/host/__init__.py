"""The parts that every method on PEFT needs, and no method: the adapted layer, its kinds, the tuner, its registration.

A method is a configuration (`AdapterConfig`), a layer (`AdapterLayer`: `build`, `start`, `update`), one class of two
names for each kind of layer that it adapts, a tuner (`AdapterTuner`) that lists these classes, and one `register`.
"""

from corefold.adapters.host.attention import AttentionKind
from corefold.adapters.host.config import AdapterConfig
from corefold.adapters.host.convolution import ConvolutionKind
from corefold.adapters.host.embedding import EmbeddingKind
from corefold.adapters.host.layer import AdapterLayer
from corefold.adapters.host.linear import LinearKind
from corefold.adapters.host.registry import register
from corefold.adapters.host.tuner import AdapterTuner

__all__ = [
    "AdapterConfig",
    "AdapterLayer",
    "AdapterTuner",
    "AttentionKind",
    "ConvolutionKind",
    "EmbeddingKind",
    "LinearKind",
    "register",
]
