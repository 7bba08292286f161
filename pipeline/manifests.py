"""Manifests: Parquet, CSV and JSONL files, each row of which names a video or a span of one."""

import csv
import gzip
import hashlib
import io
import json
import math
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.input_config import ColumnsConfig
from pipeline.secrets import redact, storable
from pipeline.storage import Store

__all__ = ["ManifestRow", "read_manifest", "stand_in"]

_ROWS_AT_ONCE = 10_000
_COPIED_AT_ONCE = 2**24
# No URL has control characters in it, and nothing opens a longer one.
_LEGAL_URL = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LINK = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
# Of a web address's query, what signs it: such a link is another one tomorrow.
_SIGNING = re.compile(
    r"x-(amz|goog|ms|oss|cos)-.*|signature|sig|sign|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|"
    r"ossaccesskeyid|.*token.*|.*secret.*|.*password.*|api_?key|auth|s[evprt]|sip|spr|sk[tev]|skoid|sktid",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One row.

    Attributes:
        url: of the video, as the manifest has it; a path is one below the manifest's folder.
        key: the row's id, or its URL and span.
        start_seconds: where the span begins, or None.
        end_seconds: where it ends, or None.
        text: the caption and the other columns, as a sample's members: by extension.
        problem: why it names no video, or None.
    """

    url: str
    key: str
    start_seconds: float | None
    end_seconds: float | None
    text: dict[str, str]
    problem: str | None


def read_manifest(store: Store, path: str, columns: ColumnsConfig) -> Iterator[ManifestRow]:
    """Reads a manifest, row by row.

    A row that names no video is a row with a problem: it becomes a reject, and the others go on.

    Args:
        store: where it lies.
        path: its path; its extension says what it is.
        columns: what its columns are called.

    Raises:
        ConfigError: it is not what its extension says, or has no column of URLs.
        StorageError: the store failed.
    """
    where = redact(f"{store.root}/{path}")
    has_url = False
    try:
        for number, row in enumerate(_rows(store, path), 1):
            if isinstance(row, dict) and columns.url not in row and not has_url:
                raise ConfigError(
                    f"input.manifests: {where}: there is no column {columns.url!r} (there are {', '.join(row)}); "
                    "input.columns.url says which one holds the URLs"
                )
            has_url = True
            yield _checked(row, columns, f"row {number} of {path}")
    except (pa.ArrowException, csv.Error, UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"input.manifests: {where}: cannot be read: {error}") from None


def stand_in(url: str) -> str:
    """What stands for a URL in a dataset: a web address without its user and query, which may be a signature.

    What of the query signs nothing (`?id=7`) goes into a hash, so that addresses which differ stay so, and a link
    that is signed anew stays the same.
    """
    bare = re.sub(r"^(?!abfss?:)([a-z][a-z0-9+.-]*://)[^/]*@", r"\1", storable(url), flags=re.IGNORECASE)
    if bare == url or not re.match("https?://[^?]*[?]", url, re.IGNORECASE):
        return bare
    said = sorted(
        (name, value) for name, value in parse_qsl(url.split("?", 1)[1], True) if not _SIGNING.fullmatch(name)
    )
    return f"{bare}?query={hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}" if said else bare


def _rows(store: Store, path: str) -> Iterator[Mapping[str, Any] | str]:
    """Each row by column; of what is no row, what is wrong with it."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet_rows(store, path)
        return
    with store.open(path) as raw:
        opened = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else io.BufferedReader(raw)
        text = io.TextIOWrapper(cast("IO[bytes]", opened), "utf-8-sig", newline="")
        if name.endswith((".jsonl", ".ndjson")):
            yield from (_parsed(line) for line in text if line.strip())
            return
        csv.field_size_limit(2**27)
        for row in csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ","):
            # None is the name of what has no column, and the value of a column that the row does not reach.
            yield {name: value for name, value in row.items() if name is not None and value is not None}


def _parquet_rows(store: Store, path: str) -> Iterator[Mapping[str, Any]]:
    # From a file of this machine's: Arrow's threads must hold nothing of Python's (see opened_parquet).
    with tempfile.NamedTemporaryFile() as copy:
        with store.open(path) as raw:
            shutil.copyfileobj(raw, copy, _COPIED_AT_ONCE)
        copy.flush()
        with pq.ParquetFile(copy.name) as file:
            for group in range(file.num_row_groups):
                for batch in file.read_row_group(group, use_threads=False).to_batches(max_chunksize=_ROWS_AT_ONCE):
                    yield from batch.to_pylist()


def _parsed(line: str) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deep"
    return row if isinstance(row, dict) else f"it is a {type(row).__name__}"


def _checked(row: Mapping[str, Any] | str, columns: ColumnsConfig, where: str) -> ManifestRow:
    if isinstance(row, str):
        problem = f"{where} is no JSON object: {row}"
        return ManifestRow(url="", key=where, start_seconds=None, end_seconds=None, text={}, problem=problem)
    names = [columns.url, columns.id, columns.caption, columns.start_seconds, columns.end_seconds]
    given, key, caption, start, end = (row.get(name) for name in names)
    url = _SCHEME.sub(lambda match: match[0].lower(), given.strip()) if isinstance(given, str) else ""
    problems = (
        [] if url and _LEGAL_URL.fullmatch(url) else [f"{columns.url} is {_said(given)}, expected a URL or a path"]
    )
    seconds: list[float | None] = []
    for name, value in ((columns.start_seconds, start), (columns.end_seconds, end)):
        number = _seconds(value)
        if number is not None and not (math.isfinite(number) and number >= 0):
            problems.append(f"{name} is {_said(value)}, expected seconds")
            number = None
        seconds.append(number)
    first, last = seconds
    if first is not None and last is not None and first >= last:
        problems.append(f"the span from {first} to {last} s is empty")
    others = {name: _plain(value) for name, value in row.items() if name not in names and value is not None}
    metadata = json.dumps({"url": stand_in(url), **others}, ensure_ascii=False, default=str)
    has_caption = caption is not None and str(caption).strip()
    return ManifestRow(
        url="" if problems else url,
        key=_text(_plain(key)) if key not in (None, "") else _named(url, first, last) or where,
        start_seconds=first,
        end_seconds=last,
        text={**({"caption": _text(_plain(caption))} if has_caption else {}), "json": _text(metadata)},
        problem=f"{where}: {'; '.join(problems)}" if problems else None,
    )


def _said(value: Any) -> str:
    return redact(repr(value)[:100])


def _text(value: Any) -> str:
    # JSON can escape half a surrogate pair, which no UTF-8 column can hold.
    return str(value).encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    """A value as a dataset may keep it: links without what signs them, and no number that JSON does not know."""
    if isinstance(value, str) and _LINK.fullmatch(value):
        return stand_in(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _seconds(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _named(url: str, start: float | None, end: float | None) -> str:
    """A URL with its span, in the form of W3C's media fragments."""
    if start is None and end is None:
        return stand_in(url)
    return f"{stand_in(url)}#t={'' if start is None else f'{start:g}'}{'' if end is None else f',{end:g}'}"
