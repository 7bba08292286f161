"""Options that several commands take."""

from typing import Annotated

import typer

from pipeline.logs import LogFormat

__all__ = ["Anon", "Assignments", "EndpointUrl", "Format", "Verbose", "WithReport"]

EndpointUrl = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint, where it is not AWS.")]
Anon = Annotated[bool, typer.Option("--anon", help="Read without credentials.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every attempt, with tracebacks.")]
Format = Annotated[
    LogFormat,
    typer.Option(
        "--log-format", envvar="VIDTOK_LOG_FORMAT", help="What goes to stderr: text, or JSON, an object a line."
    ),
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, over the job file; may be given more than once.")
]
WithReport = Annotated[
    bool, typer.Option("--report/--no-report", help="Whether the dataset gets a report.html at the end of the run.")
]
