"""gc --rewrite: parts of which rows were removed are written anew without them, under the same name.

A reader finds the rows that are left by what the new footer says of the part as it was committed. One that read the old
footer meets bytes that it does not understand, and reads the footer again.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.errors import CommitConflict
from pipeline.parts import REWRITTEN, footer_of, groups_bytes, opened_parquet
from pipeline.reading.parts import CorruptPart, PartReader

__all__ = ["Rewrite", "rewrite_parts", "rewritten_bytes"]


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A part that holds rows that were removed.

    Attributes:
        path: its.
        rows: how many it holds of them.
        committed_rows: how many rows it was committed with.
    """

    path: str
    rows: int
    committed_rows: int


def rewrite_parts(dataset: Dataset, *, remove: bool) -> Iterator[Rewrite]:
    """Yields each part that holds removed rows, written anew without them by then if `remove`.

    Each is replaced at once, so wherever this stops a part is whole, and the next call does the others. Other bytes of
    the rows (rejects, older versions that a bucket keeps, caches of readers) are not looked at.

    Raises:
        CommitConflict: parts are gone, or not what was committed, which would be covered up; all others are done.
        StorageError: the store failed.
    """
    removed: dict[str, dict[int, Any]] = defaultdict(dict)
    for (path, group), rows in dataset.removed().items():
        if len(rows):
            removed[path][group] = rows
    reader, broken = PartReader(dataset.store), []
    for named in (part for commit in dataset.commits() for part in commit["parts"] if part["path"] in removed):
        path = named["path"]
        try:
            footer, _ = reader.described(path, size_bytes=named["size_bytes"])
        except CorruptPart as error:
            broken.append(str(error))
            continue
        gone = footer.get(REWRITTEN, {}).get("removed", {})
        left = {group: np.setdiff1d(rows, gone.get(str(group), [])) for group, rows in removed[path].items()}
        if not (count := sum(map(len, left.values()))):
            continue
        if remove:
            data = dataset.store.read(path)
            if REWRITTEN not in footer and hashlib.sha256(data).hexdigest() != named["sha256"]:
                broken.append(f"{path}: is not what was committed; `vidtok verify --deep` tells what is wrong")
                continue
            dataset.store.put(path, rewritten_bytes(data, removed[path], is_mixed=len(named["shapes"]) > 1))
        yield Rewrite(path=path, rows=count, committed_rows=named["rows"])
    if broken:
        raise CommitConflict("\n".join(broken))


def rewritten_bytes(data: bytes, removed: Mapping[int, Any], *, is_mixed: bool = False) -> bytes:
    """A part without some rows, besides those that it lost before.

    Row groups keep their bounds; one that loses all its rows is left out. The footer stays as it was, `statistics`
    among it, which are of all rows that were committed, and says in `rewritten` what is missing.

    Args:
        data: the part.
        removed: numbers of rows by the number of a row group, both as committed.
        is_mixed: whether rows differ in shape, and those of the rows that go are kept.
    """
    footer = footer_of(data) or {}
    with opened_parquet(data) as file:
        schema = file.schema_arrow.remove_metadata()
        standing = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        before = footer.get(REWRITTEN, {"row_groups": standing, "removed": {}})
        shapes = before.get("shapes", {})
        gone = {
            name: dict(zip(rows, shapes.get(name, [None] * len(rows)), strict=True))
            for name, rows in before["removed"].items()
        }
        groups, number = [], 0
        for group, count in enumerate(before["row_groups"]):
            there = np.setdiff1d(np.arange(count), list(gone.get(str(group), ())))
            if not len(there):
                continue
            table = file.read_row_group(number, use_threads=False).replace_schema_metadata(None)
            number += 1
            goes = np.isin(there, removed.get(group, []))
            if goes.any():
                shapes_of = zip(there[goes].tolist(), _shapes(table.filter(pa.array(goes))), strict=True)
                gone.setdefault(str(group), {}).update(shapes_of)
            if not goes.all():
                groups.append(table.filter(pa.array(~goes)))
    said = {"row_groups": before["row_groups"], "removed": {name: sorted(rows) for name, rows in gone.items()}}
    if is_mixed:
        said["shapes"] = {name: [rows[row] for row in sorted(rows)] for name, rows in gone.items()}
    return groups_bytes(groups, schema, {**footer, REWRITTEN: said})


def _shapes(rows: pa.Table) -> list[list[int]]:
    columns = (rows.column(name).to_pylist() for name in ("latent_t", "latent_h", "latent_w"))
    return [list(shape) for shape in zip(*columns, strict=True)]
