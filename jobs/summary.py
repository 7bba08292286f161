"""What a run did, told at its end."""

import logging
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from jobs.display import human_bytes
from jobs.logs import say

if TYPE_CHECKING:
    from pipeline.config import JobConfig
    from pipeline.job import JobResult
    from pipeline.progress import Counters

__all__ = ["summarise"]


def summarise(out: Console, err: Console, config: "JobConfig", result: "JobResult") -> None:
    """Prints what a run committed and how fast, and which shards it gave up.

    Args:
        out: for what was done.
        err: for what was not.
        config: the job.
        result: what its run did.
    """
    progress = result.progress
    totals = result.totals
    before = f" ({progress.shards_before} of them earlier)" if progress.shards_before else ""
    out.print(f"Committed {progress.shards_before + progress.shards_done} of {progress.shards} shards{before}")
    # Whoever wrote their parts: a run adopts what others left.
    out.print(
        f"Those of this run hold {totals['videos']:,} videos, {totals['rows']:,} clips, {totals['tokens']:,} tokens, "
        f"{totals['rejects']:,} rejects, in {escape(result.output)}",
        soft_wrap=True,
    )
    if progress.counters.seconds:
        out.print(_pace(progress.counters), soft_wrap=True)
    if totals["rejects"]:
        out.print(f"`vidtok inspect {escape(config.output)}` shows why videos were rejected", soft_wrap=True)
    for failure in result.failures:
        what = f"[red]failed[/] {escape(failure.path)} after {failure.attempts} attempts: {escape(failure.error)}"
        say(err, logging.ERROR, what)
        for attempt, error in enumerate(failure.history[:-1], 1):
            say(err, logging.ERROR, f"  attempt {attempt}: {escape(error)}")
    if result.failures:
        err.print("Run the same command again to try these shards once more.")


def _pace(counters: "Counters") -> str:
    """What a worker did in a second, and which of its stages the others waited for."""
    shares = ", ".join(f"{stage} {counters.busy_share(stage):.0%}" for stage in counters.busy_seconds)
    frames, clips, tokens, read = (
        count / counters.seconds for count in (counters.frames, counters.clips, counters.tokens, counters.bytes_read)
    )
    return (
        f"A worker did {frames:,.1f} frames, {clips:,.2f} clips and {tokens:,.0f} tokens a second and read "
        f"{human_bytes(read)}; at work was {shares}: the rest of the time they waited for {counters.bottleneck}"
    )
