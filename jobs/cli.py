"""The `vidtok` command line.

Exit codes: 0 all shards are committed, 1 some shard failed, 2 the job cannot run as it is (nothing was tokenized),
130 interrupted, 143 told to stop by SIGTERM (run it again to go on).
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from jobs.bench.commands import bench
from jobs.dataset_commands import merge, remove, split
from jobs.display import ProgressDisplay
from jobs.exports import export
from jobs.logs import log_to, say
from jobs.model_commands import convert, evaluate, models, reconstruct, train
from jobs.options import Anon, Assignments, EndpointUrl, Format, Verbose, WithReport
from jobs.planning import plan
from jobs.previewing import preview
from jobs.report import leave_report, report
from jobs.statistics import stats
from jobs.status import status
from jobs.summary import summarise
from pipeline.config import JobConfig
from pipeline.errors import (
    ConfigError,
    ErrorBudgetExceeded,
    ShardError,
    Stopped,
    TrainingFailed,
    VidtokError,
    WorkerUnfit,
)
from pipeline.job_file import load_job
from pipeline.logs import LogFormat, log_settings
from pipeline.model_config import RANDOM_CHECKPOINT
from pipeline.secrets import redact
from pipeline.stopping import stop_on_sigterm

__all__ = ["app", "main"]

EXIT_SHARD_FAILED = 1
EXIT_BAD_CONFIG = 2
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143

app = typer.Typer(
    help="Turns shards of videos into datasets of VidTok tokens or latents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Off a terminal nothing may be cut to the width of one: ids and paths are copied from there.
out = Console(width=None if sys.stdout.isatty() else 200, emoji=False)
err = Console(stderr=True, emoji=False)
log = logging.getLogger(__name__)


@app.command()
def tokenize(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).")],
    assignments: Assignments = None,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add tars that came after the first run; without it no later run looks for any."),
    ] = False,
    share: Annotated[
        str | None, typer.Option(help="K/N: of every N shards the K-th, counted from 0, alone; for tasks of an array.")
    ] = None,
    with_report: WithReport = True,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Tokenize shards of videos into a dataset, or go on with one."""
    from pipeline.job import JobResult, run_job  # PyAV and Arrow take a second to import

    log_to(err, logging.DEBUG if verbose else logging.WARNING, log_format)
    config, mine = load_job(job, assignments or []), _share(share)
    if config.model.checkpoint == RANDOM_CHECKPOINT:
        message = "[bold red]RANDOM WEIGHTS[/]: the tokens of this dataset mean nothing; for tests only"
        say(err, logging.WARNING, message)
    with _displayed() as display:
        result: JobResult = run_job(config, display, append=append, share=mine)
    _conclude(config, result, report=with_report and share is None)


def _share(written: str | None) -> tuple[int, int]:
    if written is None:
        return 0, 1
    number, slash, of = written.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ConfigError(f"--share {written}: expected K/N with 0 <= K < N, such as 3/8")
    return int(number), int(of)


@contextmanager
def _displayed() -> Iterator[ProgressDisplay]:
    stop_on_sigterm()
    try:
        with ProgressDisplay(err) as display:
            yield display
    except KeyboardInterrupt:  # Typer would end in silence
        say(err, logging.WARNING, "Interrupted. What is committed stays; run the same command again to go on.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Stopped:
        message = "Stopped, as SIGTERM asks. What is written stays; run the same command again to go on."
        say(err, logging.WARNING, message)
        raise typer.Exit(EXIT_STOPPED) from None


def _conclude(config: JobConfig, result: Any, *, report: bool) -> None:
    progress = result.progress
    if progress.shards_before == progress.shards:
        out.print(
            f"Nothing to do: all {progress.shards} shards are committed in {escape(result.output)}", soft_wrap=True
        )
        return
    summarise(out, err, config, result)
    if report and progress.shards_done:
        leave_report(err, config)
    if result.failures:
        raise typer.Exit(EXIT_SHARD_FAILED)


@app.command("retry-rejects")
def retry_rejects(
    job: Annotated[Path, typer.Argument(help="The job file (YAML) that the dataset was made with.")],
    classes: Annotated[list[str], typer.Option("--class", help="A reject's class, such as timeout; may be repeated.")],
    assignments: Assignments = None,
    with_report: WithReport = True,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Try rejected videos again, as supplementary shards: what is committed stays as it is."""
    from jobs import upkeep

    log_to(err, logging.DEBUG if verbose else logging.WARNING, log_format)
    config = load_job(job, assignments or [])
    with _displayed() as display:
        result, videos = upkeep.retry_rejects(config, classes, display)
    out.print(f"{videos:,} rejected videos of the classes {', '.join(classes)} to try again", highlight=False)
    _conclude(config, result, report=with_report)


@app.command()
def verify(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    deep: Annotated[bool, typer.Option("--deep", help="Also check the sha256 of every file.")] = False,
    source: Annotated[bool, typer.Option("--source", help="Also look for every video of the input.")] = False,
    shards: Annotated[
        str | None, typer.Option(help="The input's shards, as in the job file, where they have moved.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Check a dataset: files, chains of parts, counts, ids, codes. Exit code 1 where something is wrong."""
    from jobs import upkeep

    log_to(err, logging.WARNING)
    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    if not upkeep.verify(out, dataset, deep=deep, source=source, shards=shards, options=options):
        raise typer.Exit(EXIT_SHARD_FAILED)


@app.command()
def gc(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    remove_it: Annotated[bool, typer.Option("--remove", help="Remove it, not only show it.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Also all that this shard has, which is not committed: a run begins it anew.")
    ] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Also parts with rows that `vidtok remove` named: they are erased.")
    ] = False,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Show what no commit names or will name, and remove it when told."""
    from jobs import upkeep

    log_to(err, logging.WARNING)
    options = {"endpoint_url": endpoint_url}
    upkeep.remove_garbage(out, dataset, remove=remove_it, shard=shard, rewrite=rewrite, options=options)


@app.command("config")
def show_config(
    job: Annotated[Path | None, typer.Argument(help="A job file: print it with every default filled in.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a job file.")] = False,
    assignments: Assignments = None,
) -> None:
    """Print a job's full configuration, or the schema of all job files."""
    if schema == (job is not None):
        raise ConfigError("vidtok config takes either a job file or --schema")
    shown = load_job(job, assignments or []).model_dump(mode="json") if job else JobConfig.model_json_schema()
    sys.stdout.write(redact(json.dumps(shown, indent=2)) + "\n")


@app.command()
def inspect(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    rows: Annotated[int, typer.Option(help="Rows to show.")] = 5,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Show what a dataset holds: its model, what is committed, some rows, and why videos were rejected."""
    from jobs.inspection import show_dataset

    show_dataset(out, dataset, rows=rows, options={"endpoint_url": endpoint_url, "anon": anon or None})


@app.command()
def decode(
    dataset: Annotated[str, typer.Argument(help="A dataset's root, or one part of it: a path or URL of a .parquet.")],
    row_id: Annotated[str, typer.Option("--id", help="A row's id; `vidtok inspect` shows some.")],
    target: Annotated[Path, typer.Option("--out", help="The mp4 to write.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="The weights, where they are no longer where they were.")
    ] = None,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Decode one row back to a video."""
    from jobs.inspection import decode_to_file

    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    frames = decode_to_file(dataset, row_id, target, checkpoint=checkpoint, device=device, options=options)
    out.print(f"Wrote {frames} frames to {escape(str(target))}")


app.command()(plan)
app.command()(preview)
app.command()(remove)
app.command()(split)
app.command()(merge)
app.command()(models)
app.command()(convert)
app.command()(reconstruct)
app.command()(evaluate)
app.command()(train)
app.command()(stats)
app.command()(status)
app.command()(report)
app.add_typer(export, name="export")
app.add_typer(bench, name="bench")


def main() -> None:
    """Runs the command line; every error that we foresee is a message, not a traceback."""
    try:
        app()
    except VidtokError as error:
        if log_settings().format is LogFormat.JSON:
            log.error("%s", error)
        else:
            err.print("[bold red]error[/]", end=" ")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        is_bad_config = not isinstance(error, (ShardError, WorkerUnfit, ErrorBudgetExceeded, TrainingFailed))
        sys.exit(EXIT_BAD_CONFIG if is_bad_config else EXIT_SHARD_FAILED)


if __name__ == "__main__":
    main()
