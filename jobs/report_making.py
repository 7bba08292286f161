"""Makes the report of a dataset: here, or in the process of its own that a job starts at its end."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.report_page import Report, page_of, plots_of
from jobs.report_samples import compare
from pipeline.dataset import Dataset
from pipeline.dataset_statistics import sampled_code_usage
from pipeline.errors import ConfigError, VidtokError
from pipeline.reading.source import Source
from pipeline.snapshots import newest_snapshot
from pipeline.status import StatusReader
from pipeline.storage import Store, open_store

__all__ = ["REPORT_FILE", "main", "make_report"]

# At the dataset's root: derived, and written over.
REPORT_FILE = "report.html"
_MOST_TOKENS = 20_000_000  # whose codes are counted


def make_report(
    root: str,
    options: Mapping[str, Any],
    *,
    rows: int,
    most_seconds: float,
    page: Path | None = None,
    checkpoint: str | None = None,
    checkpoint_options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    patterns: str | None = None,
    on_written: Callable[[str], None] = lambda place: None,
) -> None:
    """Writes the report of a dataset: first without pictures, which take longest, and may not come.

    Args:
        root: the dataset's.
        options: how to reach its store.
        rows: that are decoded beside their originals.
        most_seconds: after which none of them is begun.
        page: where to write it; None: REPORT_FILE at the dataset's root.
        checkpoint: where the weights lie now, if no longer where they were.
        checkpoint_options: how to reach their store, if not as the dataset's.
        device: a torch device.
        patterns: where the input lies now, if it has moved.
        on_written: told where the page is, each time that it is written.

    Raises:
        ConfigError: there is no dataset, or the page cannot be written.
        StorageError: a store failed.
    """
    store = open_store(root, options)
    source = _newest(store, root, options)
    report = _without_samples(store, source)
    plots = plots_of(report)
    on_written(_write(page_of(report, plots), store, page))
    if source is None or not rows:
        return
    samples = compare(
        source,
        rows,
        checkpoint=checkpoint,
        device=device,
        options=options if checkpoint_options is None else checkpoint_options,
        patterns=patterns,
        most_seconds=most_seconds,
    )
    on_written(_write(page_of(replace(report, samples=samples), plots), store, page))


def _newest(store: Store, root: str, options: Mapping[str, Any]) -> Source | None:
    """The newest snapshot; None where there is none yet."""
    if not newest_snapshot(store, ids_alone=True).number:
        return None
    return Source(root, columns=None, snapshot=None, split=None, cache=None, storage=dict(options))


def _without_samples(store: Store, source: Source | None) -> Report:
    threads = min(8, os.cpu_count() or 1)
    return Report(
        status=StatusReader(store).read(),
        description=Dataset.open(store).description,
        snapshot=0 if source is None else source.snapshot,
        codes=None if source is None else sampled_code_usage(source, threads=threads, most_tokens=_MOST_TOKENS),
        latents=None if source is None else source.index.statistics,
        samples=None,
    )


def _write(html: str, store: Store, page: Path | None) -> str:
    data = html.encode()
    if page is None:
        store.put(REPORT_FILE, data)
        return f"{store.root}/{REPORT_FILE}"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"--out {page}: cannot be written: {error.strerror or error}") from None
    return str(page)


def main() -> None:
    """Makes the report that stdin asks for, as JSON: the arguments of `make_report`; prints where it is."""
    try:
        make_report(**json.load(sys.stdin), on_written=lambda place: print(place, flush=True))
    except VidtokError as error:
        sys.exit(str(error))
