"""A dataset of tokens as Megatron-LM's indexed dataset: `<prefix>.bin` and `<prefix>.idx`, and with it `<prefix>.json`.

The .bin holds ids, clip after clip. The .idx is little-endian: the magic, its version (1), the code of the ids' type,
how many sequences and how many borders of documents there are; then each sequence's length (int32), where it begins in
the .bin in bytes (int64), and the borders of documents, as numbers of sequences (int64). Each document here is one
sequence, a clip.
"""

import dataclasses
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, StorageError
from pipeline.exports.rows import Written, open_source, provenance, stored_rows
from pipeline.reading.source import Source
from pipeline.reading.vocabulary import Vocabulary

__all__ = ["export_megatron"]

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_CODES = {"<i4": 4, "<u2": 8}
# Megatron keeps vocabularies below this size in 16 bits.
_UINT16_BELOW = 65_500
_AT_ONCE = 2**20  # numbers of the index that are in memory


def export_megatron(
    root: str,
    prefix: str,
    *,
    vocabulary: Mapping[str, Any] | None = None,
    split: str | None = None,
    overwrite: bool = False,
    storage: Mapping[str, Any] | None = None,
) -> Written:
    """Writes each row as a document, in stored order.

    All is written under other names first. The index, without which nobody opens the rest, gets its name last, so an
    export that was killed leaves nothing that looks whole.

    Args:
        root: the dataset's root.
        prefix: a local path; `.bin`, `.idx` and `.json` are put behind it. One export at a time may write there.
        vocabulary: arguments of `Vocabulary`, but for its levels.
        split: rows of one side alone, `train` or `validation`.
        overwrite: replace an export that stands there.
        storage: of the dataset's store: endpoint_url, anon ...

    Raises:
        ConfigError: there is no such dataset or split, it holds latents, the vocabulary makes no sense or is too large
            for int32, or a file stands at the prefix.
        StorageError: the store failed, or nothing can be written at the prefix.
    """
    targets = _targets(prefix, overwrite)
    source = open_source(root, split=split, storage=storage)
    if not source.model.is_discrete:
        raise ConfigError(
            f"{source.dataset.store.root}: is of {source.description['model']['name']}, whose rows are latents: "
            "expected a dataset of tokens (FSQ)"
        )
    words = Vocabulary(levels=source.model.fsq_levels, **(vocabulary or {}))
    dtype = _dtype(words)
    try:
        targets["bin"].parent.mkdir(parents=True, exist_ok=True)
        with _folder_beside(targets["bin"]) as folder:
            made = {suffix: Path(folder, suffix) for suffix in targets}
            lengths = Path(folder, "lengths")
            written = _write_ids(made["bin"], lengths, source, words, dtype)
            _write_index(made["idx"], lengths, written.rows, dtype)
            _write_description(made["json"], source, words, dtype, written)
            _publish(made, targets)
    except OSError as error:
        raise StorageError(f"cannot write {prefix}: {error}") from error
    return written


def _targets(prefix: str, overwrite: bool) -> dict[str, Path]:
    if "://" in prefix or not Path(prefix).name or prefix.endswith(os.sep):
        raise ConfigError(
            f"prefix {prefix}: expected a local path, which Megatron maps into memory, and that ends with a name"
        )
    targets = {suffix: Path(f"{prefix}.{suffix}") for suffix in ("bin", "json", "idx")}
    standing = [str(path) for path in targets.values() if path.exists()]
    if standing and not overwrite:
        raise ConfigError(f"{', '.join(standing)}: already there; choose another prefix, or --overwrite")
    return targets


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder for what is not whole yet; one that an export left behind when it was killed goes first."""
    folder = target.with_name(f".{target.name}.partial")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _dtype(words: Vocabulary) -> "np.dtype[Any]":
    """The type of the ids, as Megatron chooses it by the size of a vocabulary."""
    if words.size > 2**31:
        raise ConfigError(f"the vocabulary ends with id {words.size - 1}: expected int32 (try digits, or less offset)")
    return np.dtype("<u2" if words.size < _UINT16_BELOW else "<i4")


def _write_ids(path: Path, lengths: Path, source: Source, words: Vocabulary, dtype: "np.dtype[Any]") -> Written:
    """The .bin, and how many ids each row has as int32, of which a large dataset has too many for memory."""
    rows = tokens = 0
    with path.open("wb") as file, lengths.open("wb") as counts:
        for row in stored_rows(source):
            ids, _ = words.encode(row["tokens"])
            file.write(ids.numpy().astype(dtype).tobytes())
            counts.write(struct.pack("<i", len(ids)))
            rows, tokens = rows + 1, tokens + row["tokens"].numel()
        _to_disk(file)
    return Written(rows, tokens)


def _write_index(path: Path, lengths: Path, num_rows: int, dtype: "np.dtype[Any]") -> None:
    with path.open("wb") as file:
        file.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _CODES[dtype.str], num_rows, num_rows + 1))
        for counts in _read(lengths):
            file.write(counts.tobytes())
        begin = 0
        for counts in _read(lengths):
            ends = begin + np.cumsum(counts, dtype="<i8") * dtype.itemsize
            file.write(np.concatenate([[begin], ends[:-1]]).astype("<i8").tobytes())
            begin = int(ends[-1])
        for first in range(0, num_rows + 1, _AT_ONCE):
            file.write(np.arange(first, min(first + _AT_ONCE, num_rows + 1), dtype="<i8").tobytes())
        _to_disk(file)


def _read(lengths: Path) -> Iterator[npt.NDArray[np.int32]]:
    with lengths.open("rb") as file:
        while len(counts := np.frombuffer(file.read(4 * _AT_ONCE), "<i4")):
            yield counts


def _write_description(path: Path, source: Source, words: Vocabulary, dtype: "np.dtype[Any]", written: Written) -> None:
    """What it takes to decode ids: `Vocabulary(**description["vocabulary"])` is the one that they were written with."""
    description = {
        **provenance(source),
        "vocabulary": {**dataclasses.asdict(words), "levels": list(words.levels)},
        "ids": {name: getattr(words, name) for name in ("bos", "end_of_frame", "end_of_video", "pad")},
        "vocabulary_size": words.size,
        "dtype": dtype.name,
        "shapes": source.index.shapes,
        **dataclasses.asdict(written),
    }
    with path.open("wb") as file:
        file.write(json.dumps(description, indent=1, ensure_ascii=False).encode())
        _to_disk(file)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(made: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    targets["idx"].unlink(missing_ok=True)  # of an export that is replaced: it would not fit the new ids
    for suffix, target in targets.items():  # the index comes last
        os.replace(made[suffix], target)
