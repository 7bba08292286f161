"""A dataset's rows as WebDataset tars: `000000.tar` and so on, and `export.json`, which is put last.

A sample is a row, its key the row's id: `tokens.npy` (int32, T,H,W), or `latents.npy` and where it is stored
`logvar.npy` (float16, C,T,H,W); `txt`, the caption, where there is one; `json`, all other columns.
"""

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import webdataset

from pipeline.errors import ConfigError
from pipeline.exports.rows import Written, num_rows, open_source, provenance, stored_rows
from pipeline.rows import PAYLOAD_COLUMNS
from pipeline.storage import Store, open_store

__all__ = ["EXPORT_FILE", "export_webdataset"]

EXPORT_FILE = "export.json"
_TAR = re.compile(r"\d{6,}\.tar")
_OWNER = "vidtok"


def export_webdataset(
    root: str,
    target: str,
    *,
    rows_per_shard: int = 1000,
    split: str | None = None,
    overwrite: bool = False,
    storage: Mapping[str, Any] | None = None,
    target_storage: Mapping[str, Any] | None = None,
) -> Written:
    """Writes the rows in stored order; equal rows give equal bytes. A tar stands in memory until it is put.

    Args:
        root: the dataset's root.
        target: a folder of any store, of its own.
        rows_per_shard: rows of a tar.
        split: rows of one side alone, `train` or `validation`.
        overwrite: replace an export that stands there, whole or not.
        storage: of the dataset's store: endpoint_url, anon ...
        target_storage: of the target's store.

    Raises:
        ConfigError: there is no such dataset or split, or something stands in the target.
        StorageError: a store failed.
    """
    if rows_per_shard < 1:
        raise ConfigError(f"rows_per_shard {rows_per_shard}: expected 1 or more")
    source = open_source(root, split=split, storage=storage, every_column=True)
    store = open_store(target, target_storage)
    _make_room(store, overwrite)
    rows, tokens = stored_rows(source), 0
    num_shards = -(-num_rows(source) // rows_per_shard)
    for number in range(num_shards):
        data, num_tokens = _tar(itertools.islice(rows, rows_per_shard))
        store.put(_name(number), data)
        tokens += num_tokens
    written = Written(num_rows(source), tokens)
    last = _name(num_shards - 1).removesuffix(".tar")
    description = {
        **provenance(source),
        "shards": f"{{000000..{last}}}.tar",  # as webdataset.WebDataset takes it
        "rows_per_shard": rows_per_shard,
        **dataclasses.asdict(written),
    }
    store.put(EXPORT_FILE, json.dumps(description, indent=1, ensure_ascii=False).encode())
    return written


def _name(number: int) -> str:
    return f"{number:06d}.tar"


def _make_room(store: Store, overwrite: bool) -> None:
    """Sees to it that nothing of another export lies among ours."""
    standing = [info.path for info in store.list()]
    if foreign := [path for path in standing if path != EXPORT_FILE and not _TAR.fullmatch(path)]:
        raise ConfigError(f"{store.root}: holds {foreign[0]}, which is of no export: expected a folder of its own")
    if standing and not overwrite:
        raise ConfigError(f"{store.root}: {standing[0]} is already there; choose another folder, or --overwrite")
    # What says that the old one is whole goes first.
    for path in sorted(standing, key=lambda path: path != EXPORT_FILE):
        store.delete(path)


def _tar(rows: Iterable[dict[str, Any]]) -> tuple[bytes, int]:
    """Rows as a tar, and how many tokens they have."""
    file, tokens = io.BytesIO(), 0
    with webdataset.TarWriter(file, encoder=False, mtime=0, user=_OWNER, group=_OWNER, compress=False) as tar:
        for row in rows:
            tar.write(_sample(row))
            tokens += row["latent_t"] * row["latent_h"] * row["latent_w"]
    return file.getvalue(), tokens


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: _plain(value) for name, value in row.items() if name not in ("id", "caption", *PAYLOAD_COLUMNS)}
    sample = {"__key__": row["id"], "json": json.dumps(others, ensure_ascii=False).encode()}
    if row["caption"] is not None:
        sample["txt"] = row["caption"].encode()
    return sample | {f"{name}.npy": _npy(row[name]) for name in PAYLOAD_COLUMNS if name in row}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _npy(values: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.numpy(), allow_pickle=False)
    return file.getvalue()
