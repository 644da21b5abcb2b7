"""The starts of many runs: bases from the gradients of single samples, pair cores in them, and LoRA's pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from corefold.core import PairCore
from reproduce.many.batched_training import (
    NO_UPDATES,
    BatchedEncoder,
    BatchedHeads,
    BatchedUpdates,
    EncodedTexts,
    Pairs,
)

ITERATIONS, EXTRA_COLUMNS = 10, 16  # for the orthogonal iteration
LORA_SCALE = 2.0  # alpha over rank in corefold's and PEFT's defaults


def fisher_bases(
    encoder: BatchedEncoder, heads: BatchedHeads, texts: EncodedTexts, rows: Tensor, width: int
) -> Pairs:
    """Left and right bases of each layer and run, (runs, side, width at most), as `bases="fisher"` has them.

    They are leading eigenvectors of `sum(G_i G_i^T)` and `sum(G_i^T G_i)`, largest first, with G_i the gradient of text
    i's share of the loss without update and dropout. Unlike the library's, they come from the sums themselves, not from
    sketches, and their columns are not paired.
    """
    encoder.model.eval()
    NO_UPDATES.set(encoder)
    sums: dict[tuple[str, int], Tensor] = {}

    def watch(name: str, x: Tensor, g: Tensor) -> None:
        x, g = (each.reshape(len(rows), -1, *each.shape[1:]).float() for each in (x, g))
        for side, (a, b) in enumerate(((g, x), (x, g))):
            a = a / a.flatten(1).norm(dim=1)[:, None, None, None]
            weighted = ((b @ b.mT) @ a).flatten(1, 2)  # for a row with G = a^T b: G G^T = a^T (b b^T a)
            square = a.flatten(1, 2).mT @ weighted
            sums[name, side] = square / square.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]

    for name, layer in encoder.layers.items():
        layer.watch = partial(watch, name)
    embeddings = encoder.model.get_submodule("embeddings")
    handle = embeddings.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    try:
        tokens, mask, labels = texts.batch(rows)
        heads.losses(encoder.embed(tokens, mask), labels).sum().backward()
    finally:
        handle.remove()
        for layer in encoder.layers.values():
            layer.watch = None
    bases: dict[tuple[str, int], Tensor] = {}
    for size in {each.shape[-1] for each in sums.values()}:
        keys = [key for key, each in sums.items() if each.shape[-1] == size]
        leading = _leading(torch.cat([sums.pop(key).double() for key in keys]), min(width, size))
        bases |= dict(zip(keys, leading.float().split(len(rows)), strict=True))
    pairs = {name: (bases[name, 0], bases[name, 1]) for name in encoder.layers}
    least = {name: min(each.shape[-1] for each in pair) for name, pair in pairs.items()}
    return {
        name: (left[..., : least[name]], right[..., : least[name]]) for name, (left, right) in pairs.items()
    }


def _leading(square: Tensor, width: int) -> Tensor:
    """Leading eigenvectors of many matrices by orthogonal iteration, (many, side, width)."""
    side = square.shape[-1]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(side, min(side, width + EXTRA_COLUMNS), dtype=torch.float64, generator=generator)
    q = noise.to(square.device).expand(len(square), -1, -1)
    for _ in range(ITERATIONS):
        q = square @ q + 1e-12 * q
        for _ in range(2):  # Cholesky QR, done twice, is as accurate as Householder's and is batched products
            q = q / q.norm(dim=1, keepdim=True)
            gram = q.mT @ q
            gram.diagonal(dim1=-2, dim2=-1).add_(1e-10)
            q = torch.linalg.solve_triangular(torch.linalg.cholesky(gram).mT, q, upper=True, left=False)
    return q[..., :width]


def deep_start(shapes: Sequence[tuple[int, int]], seeds: Sequence[int], bases: Pairs) -> BatchedUpdates:
    """Pair cores at their start, all seeds of each rank and width; zeros fill the narrower ones up to the widest.

    Raises:
        ValueError: a rank that leaves no narrow core in some layer.
    """
    most = max(rank for rank, _ in shapes)
    q, p, both = {}, {}, {}
    generators = {
        (place, seed): torch.Generator().manual_seed(seed) for place in range(len(shapes)) for seed in seeds
    }
    for name, (left, right) in bases.items():
        columns = left.shape[-1]
        starts, kept = torch.zeros(len(shapes), len(seeds), columns, most), torch.zeros(len(shapes), columns)
        for place, (rank, width) in enumerate(shapes):
            blank = torch.empty(0, min(width, columns))
            if rank >= blank.shape[1]:
                raise ValueError(f"{name}: rank {rank} in bases of {blank.shape[1]} is no narrow core")
            for run, seed in enumerate(seeds):
                core = PairCore.at_start(blank, blank, rank, generators[place, seed])
                starts[place, run, : blank.shape[1], :rank] = core.factors[0]
            kept[place, : blank.shape[1]] = 1.0
        q[name] = starts.flatten(0, 1).to(left)
        p[name] = torch.zeros_like(q[name])
        share = kept.repeat_interleave(len(seeds), 0)[:, None].to(left)
        both[name] = (left.repeat(len(shapes), 1, 1) * share, right.repeat(len(shapes), 1, 1) * share)
    return BatchedUpdates(q, p, both)


def lora_start(ranks: Sequence[int], seeds: Sequence[int], encoder: BatchedEncoder) -> BatchedUpdates:
    """LoRA's pairs at PEFT's start, all seeds of each rank."""
    q, p = {}, {}
    generators = [torch.Generator().manual_seed(seed) for _ in ranks for seed in seeds]
    of_runs = [rank for rank in ranks for _ in seeds]
    for name, layer in encoder.layers.items():
        out, in_ = layer.base.weight.shape
        a = torch.zeros(len(of_runs), in_, max(ranks))
        for run, (rank, generator) in enumerate(zip(of_runs, generators, strict=True)):
            a[run, :, :rank] = (2 * torch.rand(in_, rank, generator=generator) - 1) / in_**0.5
        q[name] = a.to(layer.base.weight.device)
        p[name] = q[name].new_zeros(len(of_runs), out, max(ranks))
    return BatchedUpdates(q, p, None, LORA_SCALE)
