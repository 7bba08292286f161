"""What `vidtok plan` found, for a person."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.display import human_bytes, human_seconds
from jobs.planning import Forecast
from pipeline.config import JobConfig
from pipeline.estimate import Quantity
from pipeline.progress import WANTED_REJECTS

__all__ = ["show_forecast"]

_BAR = 24  # letters
_SHOWN = 6


def show_forecast(console: Console, found: Forecast, config: JobConfig) -> None:
    """Prints it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in {
        **found.job,
        **_input_facts(found, config),
        **_dataset_facts(found, config),
        **_cost_facts(found, config),
    }.items():
        grid.add_row(Text(name, style="dim"), Text(value))
    console.print(grid)
    estimate = found.estimate
    for title, shares in (
        ("Codecs", estimate.codecs),
        ("Sizes", estimate.sizes),
        ("Frames a second", estimate.rates),
    ):
        _show_shares(console, title, shares)
    _show_rejects(console, found)
    _show_memory(console, found)


def _input_facts(found: Forecast, config: JobConfig) -> dict[str, str]:
    estimate = found.estimate
    done = f", {found.committed:,} of them committed: what follows is of the others" if found.committed else ""
    is_known = estimate.input_bytes > 0 or config.input.kind == "shards"
    size = human_bytes(estimate.input_bytes) if is_known else "of unknown size"
    what = f"{estimate.sampled:,} videos (seed {found.seed}); in brackets where 95 of 100 such samples have the whole"
    if estimate.is_exact:
        what = f"all {estimate.sampled:,} videos, so what follows is exact, but for bytes"
    return {
        "input": f"{found.shards:,} shards{done}, {size}",
        "sampled": f"{what}; {found.seconds:.1f} s",
        "videos": _number(estimate.quantities["videos"]),
        "duration": _text(estimate.quantities["hours"].times(3600), human_seconds),
    }


def _dataset_facts(found: Forecast, config: JobConfig) -> dict[str, str]:
    estimate = found.estimate
    quantities = estimate.quantities
    bound = ""
    if estimate.bytes_are_bound:
        bound = "at most: for codes by chance; --measure takes the model's own, which may compress better"
    return {
        "rows": _number(quantities["rows"]),
        "tokens": _number(quantities["tokens"]),
        "parts": f"{estimate.parts:,} files, {_text(quantities['bytes'], human_bytes)}"
        + (f" ({bound})" if bound else ""),
        "rejects": _number(quantities["rejects"]) + _over_budget(found, config),
    }


def _over_budget(found: Forecast, config: JobConfig) -> str:
    """Whether the job would be stopped, as things are."""
    quantities, budget = found.estimate.quantities, config.budget
    wanted = sum(quantities[f"rejects: {name}"].value for name in WANTED_REJECTS & found.estimate.examples.keys())
    share = (quantities["rejects"].value - wanted) / max(1.0, quantities["videos"].value)
    if budget.share is None or share <= budget.share or quantities["videos"].value < budget.least_videos:
        return ""
    return f": {share:.0%} of the videos, where budget.share stops a job at {budget.share:.0%}"


def _cost_facts(found: Forecast, config: JobConfig) -> dict[str, str]:
    facts = {}
    rows = found.estimate.quantities["rows"]
    if (speed := found.speed) is not None:
        hours = rows.times(1 / speed.clips_per_second)
        facts["measured"] = (
            f"{speed.clips_per_second:,.2f} clips a second ({speed.clips:,} clips, encoder alone) on {speed.device}: "
            f"{_text(hours, human_seconds)} of such a worker"
        )
    if found.gpu_hours is not None and found.clips_per_second:
        hours = rows.times(1 / found.clips_per_second / 3600)
        at = f"at {found.clips_per_second:,.2f} clips a second, encoding alone"
        wall = human_seconds(hours.value * 3600 / config.executor.num_workers)
        facts["GPU-hours"] = f"{_text(hours, _decimal)} ({at}); {wall} on {config.executor.num_workers} GPUs"
        if found.price is not None:
            facts["cost"] = f"{_text(hours.times(found.price), _decimal)} at {found.price:g} a GPU-hour"
    elif found.price is not None:
        facts["cost"] = "unknown: what was measured is no GPU; --clips-per-second says what one encodes"
    return facts


def _show_shares(console: Console, title: str, shares: Mapping[str, float]) -> None:
    if not shares:
        return
    table = Table.grid(padding=(0, 2))
    shown = dict(list(shares.items())[:_SHOWN])
    if (rest := sum(shares.values()) - sum(shown.values())) > 1e-9:
        shown[f"{len(shares) - _SHOWN} others"] = rest
    for name, share in shown.items():
        table.add_row(f"  {name}", f"{share:4.0%}", "\u2588" * max(1, round(_BAR * share)))
    console.print(Text(f"\n{title}", style="bold"), table, sep="\n")


def _show_rejects(console: Console, found: Forecast) -> None:
    if not found.estimate.examples:
        return
    table = Table(title="Rejects", title_justify="left")
    for name, justify in (("class", "left"), ("videos", "right"), ("for example", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # one of its literals
    for name, example in found.estimate.examples.items():
        table.add_row(name, _number(found.estimate.quantities[f"rejects: {name}"]), Text(example))
    console.print("", table, sep="\n")


def _show_memory(console: Console, found: Forecast) -> None:
    table = Table(title="Memory of a worker, at most", title_justify="left")
    table.add_column("what")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    for term in found.memory:
        table.add_row(term.name, human_bytes(term.size_bytes), Text(term.what))
    table.add_row("all", human_bytes(sum(term.size_bytes for term in found.memory)), "with the largest of the sample")
    console.print("", table, sep="\n")


def _number(quantity: Quantity) -> str:
    return _text(quantity, lambda value: f"{value:,.0f}")


def _decimal(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _text(quantity: Quantity, said: Callable[[float], str]) -> str:
    value, low, high = (said(number) for number in (quantity.value, quantity.low, quantity.high))
    return value if low == high else f"{value} ({low} to {high})"
