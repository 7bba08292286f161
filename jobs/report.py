"""`vidtok report`: one page on a dataset; and the one that a job leaves at its end."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.extras import check_extra, lacking_package
from jobs.options import Anon, EndpointUrl
from pipeline.errors import VidtokError
from pipeline.secrets import redact
from pipeline.stopping import check_stop

if TYPE_CHECKING:
    from pipeline.config import JobConfig

__all__ = ["leave_report", "report"]

# Of the report that a job leaves: rows, seconds after which no other row is begun, and after which it is ended.
_ROWS, _ROWS_SECONDS, _MOST_SECONDS = 4, 30.0, 120.0
_LOOK_SECONDS = 0.5
# In a process of its own: a driver has no PyTorch, and a report that fails or hangs is not the job's concern.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from jobs.report_making import main
main()
"""


def report(
    dataset: Annotated[str, typer.Argument(help="A dataset's root.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page to write; without it, report.html at the dataset's root.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows that are decoded beside their originals.")] = 8,
    seconds: Annotated[float, typer.Option(min=0, help="After which no other row is begun.")] = 300.0,
    checkpoint: Annotated[
        str | None, typer.Option(help="The weights, where they are no longer where they were.")
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="The input's shards, as in the job file, where they have moved.")
    ] = None,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Write a page on a dataset: its runs, throughput, rejects and codes, and clips beside their reconstructions."""
    check_extra("report", "the page")
    from jobs.report_making import make_report  # PyTorch takes seconds to import
    from pipeline.weights import check_device

    check_device(device)
    places: list[str] = []
    make_report(
        dataset,
        {"endpoint_url": endpoint_url, "anon": anon or None},
        rows=rows,
        most_seconds=seconds,
        page=page,
        checkpoint=checkpoint,
        device=device,
        patterns=shards,
        on_written=places.append,
    )
    out = Console(width=None if sys.stdout.isatty() else 200, emoji=False)
    out.print(f"The report is {places[-1]}", markup=False, highlight=False, soft_wrap=True)


def leave_report(console: Console, config: "JobConfig") -> None:
    """Leaves a report at the root of a job's dataset, with few rows and in bounded time, and prints where it is.

    Whatever goes wrong is told, and nothing else comes of it.
    """

    def tell(line: str) -> None:
        console.print(redact(line), markup=False, highlight=False, soft_wrap=True)

    if (package := lacking_package("report")) is not None:
        tell(f"No report was made, which needs {package}: pip install 'vidtok-pipeline[report]'")
        return
    request = {
        "root": config.output,
        "options": config.storage.output.model_dump(),
        "rows": _ROWS,
        "most_seconds": _ROWS_SECONDS,
        "checkpoint": config.model.checkpoint,
        "checkpoint_options": config.storage.input.model_dump(),
    }
    try:
        places, problem = _made(request)
    except OSError as error:
        places, problem = [], str(error)
    if places:
        tell(f"The report is {places[-1]}" + (f", without reconstructions: {problem}" if problem else ""))
    else:
        tell(f"No report was made: {problem}")


def _made(request: dict[str, Any]) -> tuple[list[str], str]:
    """Where the report was written, each time, and what went wrong; empty where nothing did."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    problem = ""
    given: str | None = json.dumps(request)
    ends = time.monotonic() + _MOST_SECONDS
    try:
        while True:
            try:
                said, complaints = process.communicate(given, timeout=_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                given = None  # it has it
                check_stop()
                if time.monotonic() > ends:
                    raise TimeoutError(f"it took more than {_MOST_SECONDS:.0f} s") from None
    except (KeyboardInterrupt, TimeoutError, VidtokError) as error:
        problem = str(error) or "interrupted"
        process.kill()
        said, complaints = process.communicate()
    if not problem and process.returncode:
        problem = " ".join(complaints.split())[-500:] or f"it ended with {process.returncode}"
    return said.splitlines(), problem
