"""`vidtok status`: how far a dataset is and who is at work on it, from storage alone, from any machine."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.display import human_bytes, human_seconds
from jobs.options import Anon, EndpointUrl

if TYPE_CHECKING:
    from pipeline.run_rates import Rate
    from pipeline.status import DatasetStatus, RunStatus

__all__ = ["RATE_HEADER", "failure_cells", "per_second", "rate_cells", "status"]

_EXIT_INTERRUPTED = 130
_SHOWN_RUNS, _SHOWN_SHARDS = 8, 10
RATE_HEADER = ("over the last", "shards", "videos", "clips", "frames", "tokens", "read")
_RUN_HEADER = ("run", "state", "driver", "heard of", "shards done", "encoder busy", "slowest stage")


def status(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until all is committed and nobody is at work, or Ctrl-C.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Of --watch, in seconds.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone: of --watch, a line each time.")] = False,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Show how far a dataset is: shards, rows, rates, rejects, failures, and which drivers are at work or gone."""
    from pipeline.status import StatusReader  # Arrow takes a second to import
    from pipeline.storage import open_store

    reader = StatusReader(open_store(dataset, {"endpoint_url": endpoint_url, "anon": anon or None}))

    def found() -> "Iterator[DatasetStatus]":
        while True:
            now = reader.read()
            yield now
            if not watch or now.is_over:
                return
            time.sleep(interval)

    try:
        _show_each(found(), as_json=as_json, indent=None if watch else 1)
    except KeyboardInterrupt:
        raise typer.Exit(_EXIT_INTERRUPTED) from None


def _show_each(found: "Iterator[DatasetStatus]", *, as_json: bool, indent: int | None) -> None:
    out = Console(emoji=False)
    if as_json:
        for now in found:
            sys.stdout.write(json.dumps(now.to_json(), indent=indent) + "\n")
            sys.stdout.flush()
    elif out.is_terminal:
        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            for now in found:
                live.update(_drawn(now), refresh=True)
    else:
        for now in found:
            sys.stdout.write("".join(f"{line}\n" for line in _lines(now)))
            sys.stdout.flush()


@dataclass(frozen=True)
class _Section:
    """A table: its title, the names of its columns (none: each row is a name and a value), and its rows."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _sections(now: "DatasetStatus") -> list[_Section]:
    """What a person is told, without tables that would be empty."""
    shards = f"{now.done:,} of {now.shards:,} done, {now.in_flight:,} in flight, {now.waiting:,} waiting"
    facts = [
        ("dataset", now.dataset),
        ("model", now.model),
        ("shards", shards + (f", {now.failed:,} failed" if now.failed else "")),
        ("committed", f"{now.rows:,} rows, {now.tokens:,} tokens of {now.videos:,} videos"),
        ("read", f"{human_bytes(now.video_bytes)}, {human_bytes(now.bytes_left)} of shards are left"),
        ("ETA", "?" if now.eta_seconds is None else human_seconds(now.eta_seconds)),
        ("drivers", _drivers(now)),
    ]
    runs = now.runs[-_SHOWN_RUNS:]
    runs = [run for run in now.runs if run.is_live and run not in runs] + runs
    under_way = [(shard["path"], human_seconds(shard["seconds"]), "under way") for shard in now.under_way]
    slowest = [(shard["path"], human_seconds(shard["seconds"]), "done") for shard in now.slowest]
    rejects = [(reject.name, f"{reject.rejects:,}", reject.example or "") for reject in now.rejects]
    failures = [failure_cells(shard) for shard in now.failures[-_SHOWN_SHARDS:]]
    found = [
        _Section("", (), [row for row in facts if row != ("ETA", "?")]),
        _Section("Per second", RATE_HEADER, [rate_cells(rate) for rate in now.rates]),
        _Section("Runs", _RUN_HEADER, [_run_cells(run) for run in runs]),
        _Section("Slowest shards", ("shard", "for", ""), under_way[:_SHOWN_SHARDS] + slowest[:_SHOWN_SHARDS]),
        _Section("Rejects", ("class", "rejects", "for example"), rejects),
        _Section("Failed shards", ("shard", "errors of its attempts"), failures),
    ]
    return [section for section in found if section.rows]


def per_second(rate: float) -> str:
    """A rate with as many digits as say something."""
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.2g}"


def rate_cells(rate: "Rate") -> tuple[str, ...]:
    """A rate as cells of a table; see RATE_HEADER."""
    numbers = (rate.shards_done, rate.videos, rate.clips, rate.frames)
    return (
        f"{human_seconds(rate.seconds)} of work",
        *map(per_second, numbers),
        f"{rate.tokens:,.0f}",
        human_bytes(rate.bytes_read),
    )


def _run_cells(run: "RunStatus") -> tuple[str, ...]:
    """A run as cells of a table; see _RUN_HEADER."""
    record = run.record
    driver, work = record.get("driver", {}), record.get("work", {})
    failed = f", {record['shards_failed']:,} failed" if record.get("shards_failed") else ""
    encoder = work.get("busy_shares", {}).get("encode")
    return (
        run.run_id,
        run.state + (f": {record['error']}" if record.get("error") else ""),
        f"{driver['host']}, process {driver['pid']}" if driver else "?",
        f"{human_seconds(max(run.silent_seconds, 0))} ago",
        f"{record.get('shards_done', 0):,}{failed}",
        "" if encoder is None else f"{encoder:.0%}",
        work.get("bottleneck") or "",
    )


def failure_cells(shard: dict[str, object]) -> tuple[str, str]:
    """A shard that was given up, and what each attempt ended with."""
    history = shard["history"]
    assert isinstance(history, list), "as its record has it"
    return str(shard["path"]), "; ".join(f"{number}: {error}" for number, error in enumerate(history, 1))


def _drivers(now: "DatasetStatus") -> str:
    live = [run for run in now.runs if run.is_live]
    said = f"{len(live):,} at work" if live else "none is at work"
    if now.runs and (last := now.runs[-1]).state == "gone" and not live:  # whoever came later made up for one before
        said += f"; {last.run_id} is gone: silent for {human_seconds(last.silent_seconds)}, and it did not end"
    return said


def _drawn(now: "DatasetStatus") -> RenderableType:
    """For a terminal."""
    first, *tables = _sections(now)
    grid = Table.grid(padding=(0, 2))
    for name, value in first.rows:
        grid.add_row(Text(name, style="dim"), Text(value))
    grid.add_row("", ProgressBar(total=max(now.shards, 1), completed=now.done, width=60))
    return Group(grid, *map(_table, tables), Text(f"as of {now.read_at}", style="dim"))


def _table(section: _Section) -> Table:
    table = Table(*section.header, title=section.title, title_justify="left")
    for row in section.rows:
        table.add_row(*map(Text, row))  # as they are: names may hold what looks like markup
    return table


def _lines(now: "DatasetStatus") -> Iterator[str]:
    """For files and pipes."""
    yield f"as of {now.read_at}"
    for section in _sections(now):
        if section.title:
            yield f"{section.title}: {', '.join(filter(None, section.header))}"
        for row in section.rows:
            yield ("  " if section.title else "") + "  ".join(cell for cell in row if cell)
