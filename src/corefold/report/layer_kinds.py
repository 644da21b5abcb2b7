"""Groups layers by kind (query, key, value, ...) and finds a short name for each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerKind:
    """Layers that differ only in the numbers of their module paths.

    Attributes:
        label: the kind's short name, which no other kind has: as much of the end of the path as that needs.
        members: positions of the layers in the list that was grouped, in its order.
        blocks: the numbers in each member's path, such as "3" or "3.0"; "" where there is none.
    """

    label: str
    members: tuple[int, ...]
    blocks: tuple[str, ...]


def group_by_kind(names: Sequence[str]) -> list[LayerKind]:
    """Group module paths by kind, in order of first appearance.

    >>> for kind in group_by_kind(["layer.0.self.key", "layer.0.mlp.dense", "layer.1.self.key"]):
    ...     print(kind.label, kind.members, kind.blocks)
    key (0, 2) ('0', '1')
    dense (1,) ('0',)
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for position, name in enumerate(names):
        pattern = tuple("*" if part.isdigit() else part for part in name.split("."))
        members.setdefault(pattern, []).append(position)
    return [
        LayerKind(label, tuple(positions), tuple(_block(names[position]) for position in positions))
        for label, positions in zip(_short_labels(list(members)), members.values(), strict=True)
    ]


def _block(name: str) -> str:
    return ".".join(part for part in name.split(".") if part.isdigit())


def _short_labels(patterns: list[tuple[str, ...]]) -> list[str]:
    """The fewest last parts that tell the patterns apart. Parts above the block number are a last resort."""
    tails = [_after_number(pattern) for pattern in patterns]
    lengths = [1] * len(patterns)
    for _ in range(max(map(len, tails), default=0)):
        labels = [".".join(tail[-length:]) for tail, length in zip(tails, lengths, strict=True)]
        counts = Counter(labels)
        lengths = [length + (counts[label] > 1) for label, length in zip(labels, lengths, strict=True)]
    labels = [".".join(tail[-length:]) for tail, length in zip(tails, lengths, strict=True)]
    twins = [[p for p, other in zip(patterns, labels, strict=True) if other == label] for label in labels]
    return [
        f"{_first_difference(pattern, alike)} {label}" if len(alike) > 1 else label
        for pattern, label, alike in zip(patterns, labels, twins, strict=True)
    ]


def _after_number(pattern: tuple[str, ...]) -> tuple[str, ...]:
    tail: tuple[str, ...] = ()
    for part in reversed(pattern):
        if part == "*" and tail:
            break
        if part != "*":
            tail = (part, *tail)
    return tail or pattern


def _first_difference(pattern: tuple[str, ...], alike: list[tuple[str, ...]]) -> str:
    """The first part in which patterns of the same label differ, such as "encoder" beside "decoder"."""
    for place, part in enumerate(pattern):
        if len({other[place : place + 1] for other in alike}) > 1:
            return part
    return ".".join(pattern)
