"""A part that was written anew without some rows, held against its commit and against what was removed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from pipeline.parts import REWRITTEN, StoredPart
from pipeline.removal import Removals

__all__ = ["as_committed", "rewritten_problems"]


def rewritten_problems(part: StoredPart, named: Mapping[str, Any], removals: Removals) -> Iterator[str]:
    """What differs from the commit and cannot be for the rows that were removed.

    Args:
        part: as it stands.
        named: the same as its commit names it.
        removals: of the dataset.
    """
    said = part.footer[REWRITTEN]
    counts: list[int] = said["row_groups"]
    if counts != named["row_groups"]:
        yield f"{part.name}: row groups before it was written anew: found {counts}, expected {named['row_groups']}"
        return
    gone = {int(group): set(rows) for group, rows in said["removed"].items()}
    if not any(gone.values()):
        yield f"{part.name}: was written anew though no row of it is gone: found no removed row, expected some"
    for group, rows in sorted(gone.items()):
        if lost := sorted(rows - removals.of(part.name, group)):
            yield f"{part.name}: row group {group}: rows {lost} are gone, and nobody removed them"
    left = [count - len(gone.get(group, ())) for group, count in enumerate(counts)]
    expected = tuple(count for count in left if count)
    if part.row_groups != expected:
        yield f"{part.name}: row groups: found {list(part.row_groups)}, expected {list(expected)} after the removal"
    shapes = {tuple(counted["shape"]): counted["rows"] for counted in named["shapes"]}
    for shape, count in part.shapes.items():
        if count > shapes.get(shape, 0):
            yield f"{part.name}: rows of shape {shape}: found {count}, expected at most {shapes.get(shape, 0)}"


def as_committed(part: StoredPart, named: Mapping[str, Any], keys: set[str], removals: Removals) -> StoredPart:
    """A part that was written anew, with the numbers of its commit: removed videos are accounted for.

    Args:
        part: as it stands.
        named: the same as its commit names it.
        keys: the source keys that rows of it have.
        removals: of the dataset.
    """
    gone = {key: count for key, count in removals.videos.get(part.name, {}).items() if key not in keys}
    tokens = sum(prod(counted["shape"]) * counted["rows"] for counted in named["shapes"])
    return replace(part, num_rows=named["rows"], num_tokens=tokens, keys=part.keys + Counter(gone))
