"""`vidtok stats`: what a dataset holds, in numbers: as tables, as JSON, as a page with plots."""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.display import CountDisplay, human_seconds
from jobs.extras import check_page
from jobs.options import Anon, EndpointUrl
from pipeline.errors import StorageError

if TYPE_CHECKING:
    from pipeline.code_usage import CodeUsage
    from pipeline.dataset_statistics import DatasetStatistics
    from pipeline.statistics import LatentStatistics

__all__ = ["code_facts", "facts", "stats"]

_SHOWN_SOURCES = 20
_SHOWN_SHAPES = 40


def stats(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    page: Annotated[
        Path | None, typer.Option("--html", help="Also write one page with plots, which needs nothing beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Whether stats.json is written to the root.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="That read and count.")] = min(16, os.cpu_count() or 1),
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Show statistics of a dataset: codes used or channels of latents, rows by shape, sources, rejects."""
    if page is not None:
        check_page(page, "--html")
    from pipeline.dataset_statistics import dataset_statistics, save_statistics  # Arrow takes a second to import
    from pipeline.reading.source import Source

    out = Console(width=None if sys.stdout.isatty() else 200, emoji=False)
    err = Console(stderr=True, emoji=False)
    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    source = Source(dataset, columns=None, snapshot=None, split=None, cache=None, storage=options)
    with CountDisplay(err, "rows") as rows_read:
        found = dataset_statistics(source, threads=threads, on_progress=rows_read)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n")
    else:
        _show(out, source.dataset.store.root, found)
    if save:
        try:
            save_statistics(source.dataset.store, found)
        except StorageError as error:
            err.print(f"stats.json is not written: {error}", markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        from jobs.statistics_page import page_of

        page.write_text(page_of(source.dataset.store.root, found), encoding="utf-8")
        err.print(f"The page is {page}", markup=False, highlight=False, soft_wrap=True)


def facts(root: str, found: "DatasetStatistics") -> dict[str, str]:
    """What stands above all, for a person."""
    removed = found.committed.rows - found.rows.rows
    return {
        "dataset": root,
        "model": found.model,
        "fingerprint": found.fingerprint,
        "snapshot": f"{found.snapshot} ({found.committed.shards:,} shards)",
        "videos": f"{found.committed.videos:,}" + (", with those that were removed" if removed else ""),
        "rows": f"{found.rows.rows:,}" + (f" ({removed:,} more were removed)" if removed else ""),
        "tokens": f"{found.rows.tokens:,}",
        "frames": f"{found.rows.frames:,}, of which {found.rows.padded_frames:,} are padding",
        "duration": f"{human_seconds(found.rows.seconds)} ({found.rows.seconds:,.1f} s)",
    }


def _show(console: Console, root: str, found: "DatasetStatistics") -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts(root, found).items():
        grid.add_row(name, value)
    console.print(grid, markup=False)
    if found.codes is not None and found.codes.tokens:
        _show_codes(console, found.codes)
    if found.latents is not None:
        _show_latents(console, found.latents)
    by_rows = sorted(found.rows.shapes, key=lambda shape: -shape["rows"])
    shapes = [("x".join(map(str, shape["shape"])), f"{shape['rows']:,}") for shape in by_rows if shape["rows"]]
    _print(console, "Rows by latent shape", ("T x H x W", "rows"), shapes[:_SHOWN_SHAPES], len(shapes))
    sources = [
        (source["source"] or "all others", f"{source['videos']:,}", f"{source['rows']:,}")
        for source in found.committed.sources
    ]
    removed = found.committed.rows - found.rows.rows
    title = "Sources, as committed" if removed else "Sources"
    _print(console, title, ("source", "videos", "rows"), sources[:_SHOWN_SOURCES], len(sources))
    rejects = [(name, f"{count:,}") for name, count in found.committed.rejects_by_class.items()]
    _print(console, "Rejects", ("class", "rejects"), rejects, len(rejects))


def code_facts(codes: "CodeUsage") -> dict[str, str]:
    """The usage of the codebook as a whole, for a person."""
    used = f"{codes.used:,} of {codes.codebook_size:,} ({codes.used / codes.codebook_size:.2%})"
    return {
        "used codes": used,
        "dead codes": f"{codes.dead:,}",
        "entropy": f"{codes.entropy_bits:.3f} of {math.log2(codes.codebook_size):.3f} bits",
        "perplexity": f"{codes.perplexity:,.1f}",
        **{
            f"share of the most frequent {'code' if top == '1' else f'{int(top):,}'}": f"{100 * share:.3g}%"
            for top, share in codes.share_of_top.items()
        },
    }


def _show_codes(console: Console, codes: "CodeUsage") -> None:
    rows = list(code_facts(codes).items())
    _print(console, "Codes", ("", ""), rows, len(rows))
    digits = [
        (
            str(number),
            str(digit.levels),
            f"{digit.entropy_bits:.3f}",
            f"{math.log2(digit.levels):.3f}",
            f"{min(digit.counts) / codes.tokens:.2%}",
            f"{max(digit.counts) / codes.tokens:.2%}",
        )
        for number, digit in enumerate(codes.digits)
    ]
    header = ("digit", "levels", "entropy, bits", "at most", "rarest value", "most frequent value")
    _print(console, "Digits", header, digits, len(digits))


def _show_latents(console: Console, latents: "LatentStatistics") -> None:
    first, rest = latents.first, latents.rest
    columns: Any = (first.mean_C, first.std_C, rest.mean_C, rest.std_C)
    rows = [
        (str(channel), *(f"{value:.4f}" for value in values))
        for channel, values in enumerate(zip(*columns, strict=True))
    ]
    header = ("channel", "mean, first frame", "deviation", "mean, rest", "deviation")
    _print(console, "Latents", header, rows, len(rows))


def _print(console: Console, title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], number: int) -> None:
    """A table, its first column to the left; nothing where it has no rows."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", show_header=any(header))
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    if left := number - len(rows):
        table.caption = f"and {left:,} more: see --json"
    console.print(table, markup=False)
