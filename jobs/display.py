"""How far a job is, shown live on a terminal and as plain lines elsewhere."""

import io
import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.job import Progress

__all__ = ["CountDisplay", "ProgressDisplay", "SaidAsRecords", "human_bytes", "human_seconds"]

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


def human_seconds(seconds: float) -> str:
    """Seconds as `42s`, `3m 05s` or `2h 07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def human_bytes(size: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class CountDisplay:
    """Shows how many of something are done: as a bar on a terminal, else as a line every ten seconds.

    Use as a context manager, and call it with how many are done, and how many there are.
    """

    def __init__(self, console: Console, noun: str) -> None:
        """Shows on `console` how many of what `noun` says, in the plural."""
        self._console = console
        self._noun = noun
        self._last_line = time.monotonic()
        columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(noun)

    def __enter__(self) -> Self:
        """Begins to show."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Shows a state."""
        self._bar.update(self._task, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"{done:,} of {total:,} {self._noun}", highlight=False)


class ProgressDisplay:
    """Shows each state it is given. Use as a context manager, and call it with every Progress."""

    def __init__(self, console: Console) -> None:
        """Shows on `console`: live where that is a terminal."""
        self._console = console
        self._began = time.monotonic()
        self._last_line = self._began
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Takes over the terminal's last lines."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the terminal back."""
        if self._live:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows a state; off a terminal, at most one line every ten seconds."""
        facts = self._facts(progress)
        if self._live:
            self._live.update(self._panel(progress, facts))
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(
                "  ".join(f"{name} {value}" for name, value in facts.items()), highlight=False, soft_wrap=True
            )

    def _facts(self, progress: Progress) -> dict[str, str]:
        counters = progress.counters
        elapsed = max(time.monotonic() - self._began, 1e-9)
        read, total = _bytes_done(progress)
        left = max(total - read, 0)
        done = progress.shards_before + progress.shards_done
        failed = f" ({progress.shards_failed} failed)" if progress.shards_failed else ""
        return {
            "shards": f"{done}/{progress.shards}{failed}",
            "videos": f"{counters.videos:,}",
            "rejects": f"{counters.rejects.total():,}",
            "frames/s": f"{counters.frames / elapsed:,.1f}",
            "clips/s": f"{counters.clips / elapsed:.2f}",
            "tokens/s": f"{counters.tokens / elapsed:,.0f}",
            "read/s": human_bytes(counters.bytes_read / elapsed),
            "encoder": f"{counters.busy_share('encode'):.0%} busy",
            "slowest": counters.bottleneck or "?",
            "elapsed": human_seconds(elapsed),
            "ETA": human_seconds(elapsed * left / read) if read else "?",
        }

    def _panel(self, progress: Progress, facts: dict[str, str]) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_row(*(Text(name, style="dim") for name in facts))
        table.add_row(*facts.values())
        read, total = _bytes_done(progress)
        return Group(ProgressBar(total=max(total, 1), completed=read, width=60), table)


class SaidAsRecords(io.StringIO):
    """A console's file for whoever collects log records: each line that is printed becomes one."""

    def write(self, text: str) -> int:
        """See io.StringIO."""
        for line in Text.from_ansi(text).plain.splitlines():
            if line.strip():
                log.info("%s", line.strip())
        return len(text)


def _bytes_done(progress: Progress) -> tuple[int, int]:
    """Bytes that were read, and all; shards where a manifest does not say how large its videos are."""
    if progress.bytes_total == 0:
        return progress.shards_done, progress.shards - progress.shards_before
    return max(progress.counters.bytes_read, progress.bytes_total - progress.bytes_left), progress.bytes_total
