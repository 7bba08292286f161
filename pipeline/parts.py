"""Part files: rows to the bytes of one Parquet file, and what its footer says back from them."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CommitConflict
from pipeline.records import Part, Position
from pipeline.rows import PAYLOAD_COLUMNS, REJECT_SCHEMA

__all__ = [
    "FOOTER_KEY",
    "PROVENANCE",
    "REWRITTEN",
    "StoredPart",
    "arrow_buffer",
    "describe_part",
    "footer_of",
    "groups_bytes",
    "holds_rejects",
    "opened_parquet",
    "part_bytes",
    "read_table",
    "rejects_bytes",
    "table_bytes",
]

FOOTER_KEY = b"vidtok"
# What every footer repeats of dataset.json.
PROVENANCE = ("format_version", "fingerprint", "plan", "model", "versions")
# In the footer of a part that was written anew without some rows, as it was committed: {"row_groups": rows of each,
# "removed": {group: rows}}, and where rows differ in shape, "shapes" of those that are gone, likewise: readers' order
# depends on them. Row groups of which nothing was left are not in the file.
REWRITTEN = "rewritten"
# What adopting a part relies on.
_FOOTER_FIELDS = {"attempt_id", "fingerprint", "source", "range", "videos", "video_bytes", "rejects", "statistics"}
_ROW_GROUP_BYTES = 32 * 2**20
# Encoded at once, of a column: with the library's 1,024 a part of tokens takes a third longer.
_BATCH_VALUES = 2**16
# Half the library's: a page and what becomes of it stay in a core's cache, for writers and for readers.
_PAGE_BYTES = 2**19


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part as it stands in the store, whoever wrote it.

    Attributes:
        name: path below the dataset's root.
        size_bytes: of the file.
        sha256: of the file.
        num_rows: clips.
        num_tokens: codebook indices, or latent positions of a KL model.
        row_groups: rows of each of the file's row groups.
        shapes: how many rows there are of each latent shape (T, H, W).
        footer: what the writer recorded: attempt_id, fingerprint, shard_id, source, range, rejects, statistics ...
        keys: videos of the part by source key.
    """

    name: str
    size_bytes: int
    sha256: str
    num_rows: int
    num_tokens: int
    row_groups: tuple[int, ...]
    shapes: Mapping[tuple[int, ...], int]
    footer: Mapping[str, Any]
    keys: Counter[str]

    @property
    def start(self) -> Position:
        """Where the part begins."""
        return Position(**self.footer["range"]["start"])

    @property
    def end(self) -> Position:
        """Where the next part begins."""
        return Position(**self.footer["range"]["end"])


def part_bytes(part: Part, schema: pa.Schema, footer: Mapping[str, Any]) -> bytes:
    """One part's rows as a Parquet file with `footer` as JSON in its key-value metadata."""
    columns = [_column([row[field.name] for row in part.rows], field.type) for field in schema]
    return table_bytes(pa.Table.from_arrays(columns, schema=schema), footer)


def _column(values: list[Any], kind: pa.DataType) -> Any:
    """Values as a column. Lists that come as arrays are joined in one step, which is what most of a part is."""
    if not (values and pa.types.is_list(kind) and isinstance(values[0], np.ndarray)):
        return pa.array(values, kind)
    offsets: Any = pa.array(np.cumsum([0, *map(len, values)], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values)), type=kind)


def rejects_bytes(rejects: Sequence[Mapping[str, Any]]) -> bytes:
    """Rejects as a Parquet file."""
    return table_bytes(pa.Table.from_pylist(list(rejects), schema=REJECT_SCHEMA))


def arrow_buffer(data: bytes) -> pa.Buffer:
    """Bytes in memory that is Arrow's own."""
    memory = pa.allocate_buffer(len(data))
    memoryview(memory).cast("B")[:] = data
    return memory


@contextmanager
def opened_parquet(data: bytes | pa.Buffer) -> Iterator[pq.ParquetFile]:
    """A Parquet file in memory that is Arrow's own.

    Of Python's, one of Arrow's threads may let go only when Python is ending, which aborts the process. For the same
    reason read it with `use_threads=False`. Pages that have a checksum are held against it.
    """
    source = pa.BufferReader(arrow_buffer(data) if isinstance(data, bytes) else data)
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        yield file


def read_table(data: bytes) -> pa.Table:
    """The table of a Parquet file."""
    with opened_parquet(data) as file:
        return file.read(use_threads=False)


def holds_rejects(data: bytes, rejects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file holds these rejects, by whichever version of the Parquet library it was written."""
    try:
        return bool(read_table(data).equals(pa.Table.from_pylist(list(rejects), schema=REJECT_SCHEMA)))
    except (pa.ArrowException, OSError):
        return False


def table_bytes(
    table: pa.Table, footer: Mapping[str, Any] | None = None, *, row_group_bytes: int = _ROW_GROUP_BYTES
) -> bytes:
    """A table as a Parquet file; equal tables and footers give equal bytes.

    Payload columns have no dictionary and no statistics, which only cost there; tokens are byte-split, which
    brings zstd within 1% of their packed size.
    """
    sink = io.BytesIO()  # which grows in place, and gives its bytes without a copy: Arrow's own does neither
    with pq.ParquetWriter(sink, table.schema, **_options(table.column_names)) as writer:
        if table.num_rows:  # an empty row group is more than some readers can take
            rows_of_a_group = max(1, int(row_group_bytes * table.num_rows / table.nbytes))
            writer.write_table(table, row_group_size=rows_of_a_group)
        if footer is not None:
            # Added here, not to the schema, of which Parquet keeps a second copy in a form no one can read.
            writer.add_key_value_metadata({FOOTER_KEY.decode(): json.dumps(footer, ensure_ascii=False)})
    return sink.getvalue()


def footer_of(data: bytes) -> Mapping[str, Any] | None:
    """What a part's footer says, of which nothing else is read; None where it is no part of ours."""
    wanted = int.from_bytes(data[-8:-4], "little") + 8  # its length, and the magic number behind that
    try:
        metadata = pq.read_metadata(pa.BufferReader(data[-wanted:]))
        footer = json.loads((metadata.metadata or {})[FOOTER_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return footer if isinstance(footer, dict) else None


def groups_bytes(groups: Iterable[pa.Table], schema: pa.Schema, footer: Mapping[str, Any]) -> bytes:
    """Tables as the row groups of a Parquet file, each page with its checksum; of none, a file without row groups."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, **_options(schema.names)) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=len(group))
        writer.add_key_value_metadata({FOOTER_KEY.decode(): json.dumps(footer, ensure_ascii=False)})
    return sink.getvalue()


def _options(names: Sequence[str]) -> dict[str, Any]:
    plain = [name for name in names if name not in PAYLOAD_COLUMNS]
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": plain}
    options["write_statistics"] = plain
    options["write_batch_size"] = _BATCH_VALUES
    options["data_page_size"] = _PAGE_BYTES
    options["write_page_checksum"] = True
    if "tokens" in names:
        options["column_encoding"] = {"tokens.list.element": "BYTE_STREAM_SPLIT"}
    return options


def describe_part(name: str, data: bytes) -> StoredPart:
    """Reads back what a part file says of itself.

    Raises:
        CommitConflict: the file is not one of our parts.
    """
    try:
        with opened_parquet(data) as file:
            footer = json.loads((file.metadata.metadata or {})[FOOTER_KEY])
            if lacking := _FOOTER_FIELDS - footer.keys():
                raise ValueError(f"its footer lacks {', '.join(sorted(lacking))}")
            columns = ["source_key", "clip_index", "latent_t", "latent_h", "latent_w"]
            table = file.read(columns=columns, use_threads=False).select(columns)
            row_groups = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:  # OSError: Parquet's, of thrift
        raise CommitConflict(f"{name}: a file that is not a part of ours stands there: {error}") from None
    shapes_N3 = np.stack([table.column(column).to_numpy() for column in columns[2:]], axis=1).astype(np.int64)
    shapes, counts = np.unique(shapes_N3, axis=0, return_counts=True)
    # A video's clips count from 0, so each 0 is one video.
    keys: Counter[str] = Counter(
        str(key)
        for key, index in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True)
        if index == 0
    )
    keys.update(reject["source_key"] for reject in footer["rejects"])
    return StoredPart(
        name=name,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        num_rows=table.num_rows,
        num_tokens=int(shapes.prod(axis=1) @ counts),
        row_groups=row_groups,
        shapes=dict(zip(map(tuple, shapes.tolist()), counts.tolist(), strict=True)),
        footer=footer,
        keys=keys,
    )
