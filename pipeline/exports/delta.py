"""A Delta table over a dataset's own parts: only `_delta_log/` is written, and its versions name what is committed."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.exports.rows import Written
from pipeline.reading.parts import PartReader
from pipeline.row_sets import REMOVED, Rows, read_rows
from pipeline.snapshots import newest_snapshot
from pipeline.storage import absolute_url, open_store

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["DeltaVersion", "export_delta"]

_SHAPE_COLUMNS = ("latent_t", "latent_h", "latent_w")
_COLOUR = re.compile(r"\x1b\[\d+m")  # of a terminal, which deltalake puts into its messages
_CONFIGURATION = {
    # Rows leave a dataset by `vidtok gc --rewrite` alone: Delta's writers are not to delete or change any.
    "delta.appendOnly": "true",
    # Nor may VACUUM take what the log does not name: dataset.json, inputs/, rejects/, parts that are not committed yet.
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}


@dataclass(frozen=True)
class DeltaVersion:
    """A version of the table.

    Attributes:
        number: from 0.
        is_new: False where there was nothing to add.
        added: rows of the parts that it names anew.
    """

    number: int
    is_new: bool
    added: Written


@dataclass(frozen=True)
class _File:
    path: str
    size_bytes: int
    rows: int
    tokens: int


def export_delta(root: str, *, storage: Mapping[str, Any] | None = None) -> DeltaVersion:
    """Makes the table name all parts of the newest snapshot.

    A version is written in one conditional request, so an export that was killed leaves the version before it, and of
    two at once the second fails or names the same parts again, which changes nothing.

    Args:
        root: the dataset's root.
        storage: of its store: endpoint_url, region.

    Raises:
        ConfigError: deltalake is not installed, there is no such dataset or snapshot, or rows that were removed are
            still in their parts.
        StorageError: the store failed, or the log there cannot be read or added to.
    """
    try:
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise ConfigError(f"a Delta table needs deltalake: pip install 'vidtok-pipeline[delta]' ({error})") from None
    dataset = Dataset.open(open_store(root, storage))
    snapshot, files = _files(dataset)
    said = {"vidtok.fingerprint": dataset.description["fingerprint"], "vidtok.snapshot": str(snapshot)}
    try:
        return _add(absolute_url(root), _delta_options(storage or {}), dataset.schema, files, said)
    except (DeltaError, OSError) as error:
        said_there = " ".join(_COLOUR.sub("", str(error)).split())
        raise StorageError(f"{dataset.store.root}/_delta_log: {said_there}") from error


def _delta_options(storage: Mapping[str, Any]) -> dict[str, str]:
    """Our options as deltalake's own client of the store names them; the rest it takes from the environment."""
    endpoint, region = storage.get("endpoint_url"), storage.get("region")
    options = {} if region is None else {"AWS_REGION": region}
    if endpoint is None:
        return options
    return {**options, "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http:")).lower()}


def _files(dataset: Dataset) -> tuple[int, list[_File]]:
    """The number of the newest snapshot, and its parts as they lie in the store."""
    snapshot = newest_snapshot(dataset.store, strict=True)
    if snapshot.number == 0:
        raise ConfigError(f"{dataset.store.root}: has no snapshot; a run of `vidtok tokenize` writes one at its end")
    removed, _ = read_rows(dataset.store, REMOVED)
    touched = {path for (path, _), rows in removed.items() if len(rows)}
    reader = PartReader(dataset.store)
    parts = (part for commit in snapshot.commits() for part in commit["parts"])
    return snapshot.number, [
        _rewritten(dataset, reader, part, removed) if part["path"] in touched else _committed(part) for part in parts
    ]


def _committed(part: Mapping[str, Any]) -> _File:
    tokens = sum(math.prod(counted["shape"]) * counted["rows"] for counted in part["shapes"])
    return _File(part["path"], part["size_bytes"], part["rows"], tokens)


def _rewritten(dataset: Dataset, reader: PartReader, part: Mapping[str, Any], removed: Rows) -> _File:
    """A part of which rows were removed, as it lies there without them."""
    path, rows, tokens = part["path"], 0, 0
    for group in range(len(part["row_groups"])):
        found = reader.read(path, group, _SHAPE_COLUMNS, size_bytes=part["size_bytes"])
        if still := len(np.intersect1d(found.kept, removed.get((path, group), []))):
            raise ConfigError(
                f"{dataset.store.root}/{path}: still holds {still} rows that were removed, which a reader of Delta "
                "would be given: `vidtok gc --rewrite` comes first"
            )
        rows += len(found.kept)
        axes_3N = [found.table.column(name).to_numpy().astype(np.int64) for name in _SHAPE_COLUMNS]
        tokens += int(np.prod(axes_3N, axis=0).sum())
    info = dataset.store.info(path)
    if info is None:
        raise StorageError(f"{dataset.store.root}/{path}: is gone, though it is committed")
    return _File(path, info.size_bytes, rows, tokens)


def _add(
    url: str, options: dict[str, str], schema: pa.Schema, files: Sequence[_File], said: dict[str, Any]
) -> DeltaVersion:
    """Writes the version that names what the log does not name yet; none where that is nothing."""
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction, create_table_with_add_actions

    table = DeltaTable(url, storage_options=options) if DeltaTable.is_deltatable(url, options) else None
    known = {} if table is None else _known(table)
    # Told apart by their sizes too: a part that was rewritten keeps its name, of which the last action counts.
    new = [file for file in files if file.size_bytes != known.get(file.path) and (file.rows or file.path in known)]
    now_ms = int(time.time() * 1000)
    actions = [
        AddAction(file.path, file.size_bytes, {}, now_ms, True, json.dumps({"numRecords": file.rows})) for file in new
    ]
    properties = CommitProperties(custom_metadata=said)
    if table is None:
        create_table_with_add_actions(
            url,
            Schema.from_arrow(schema),
            actions,
            configuration=_CONFIGURATION,
            storage_options=options,
            commit_properties=properties,
        )
    elif new:
        table.create_write_transaction([*actions], "append", table.schema(), commit_properties=properties)
    number = DeltaTable(url, storage_options=options).version()
    added = Written(sum(file.rows for file in new), sum(file.tokens for file in new))
    return DeltaVersion(number, table is None or bool(new), added)


def _known(table: "DeltaTable") -> dict[str, int]:
    """The sizes of the files that a table names, by path."""
    actions = pa.table(table.get_add_actions()).select(["path", "size_bytes"])
    return dict(zip(*(column.to_pylist() for column in actions.columns), strict=True))
