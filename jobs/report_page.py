"""The report of a dataset as one page, which needs nothing beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

from jobs.display import human_bytes, human_seconds
from jobs.pages import picture_url, render
from jobs.plots import COLOURS, GREY, new_figure, plain, svg_of
from jobs.report_samples import SampledClip, Samples
from jobs.statistics import code_facts
from jobs.statistics_page import digits_plot, latents_plot, ranks_plot
from jobs.status import RATE_HEADER, failure_cells, per_second, rate_cells
from pipeline.code_usage import CodeUsage
from pipeline.records import Frames
from pipeline.run_rates import Throughput, throughput_of
from pipeline.statistics import LatentStatistics
from pipeline.status import DatasetStatus, RunStatus

__all__ = ["Report", "page_of", "plots_of"]

_MOST_PIXELS = 256  # of a picture's sides
_PLOT_INCHES = 6.0
_SHOWN_RUNS = 20
_STAGES = ("read", "decode", "encode", "write")
_RUN_HEADER = ("run", "state", "began", "lasted", "shards", "clips", "clips/s", "encoder busy", "slowest", "driver")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page shows.

    Attributes:
        status: of the dataset.
        description: what dataset.json says.
        snapshot: which one codes, latents and samples are of; 0 where there is none yet.
        codes: usage of the codebook, of some or all tokens; None where there are latents, or no rows.
        latents: statistics of channels; None where there are tokens, or no rows.
        samples: originals and reconstructions; None where they come later, or none were wanted.
    """

    status: DatasetStatus
    description: Mapping[str, Any]
    snapshot: int
    codes: CodeUsage | None
    latents: LatentStatistics | None
    samples: Samples | None


def plots_of(report: Report) -> dict[str, str | None]:
    """The plots of a page, by their names in its template, which take longer than all else; samples are in none."""
    now, codes, latents = report.status, report.codes, report.latents
    work = throughput_of(run.record for run in now.runs)
    return {
        "rate_plot": None if work is None else _rate_plot(work),
        "shards_plot": None if work is None else _shards_plot(work, now),
        "ranks_plot": None if codes is None else ranks_plot(codes),
        "digits_plot": None if codes is None else digits_plot(codes.digits, codes.tokens),
        "latents_plot": None if latents is None else latents_plot(latents),
    }


def page_of(report: Report, plots: Mapping[str, str | None]) -> str:
    """The page as HTML, with what `plots_of` drew."""
    now, codes = report.status, report.codes
    busy = _busy(now.runs)
    return render(
        "report.html.j2",
        now=now,
        title=now.dataset.rstrip("/").rpartition("/")[2],
        state=_state(now),
        figures=_figures(report, busy),
        facts=_facts(report),
        busy=busy,
        slowest_stage=max(busy, key=busy.__getitem__, default=None),
        **plots,
        rate_header=RATE_HEADER,
        rates=[rate_cells(rate) for rate in now.rates],
        run_header=_RUN_HEADER,
        runs=[_run_cells(run) for run in reversed(now.runs[-_SHOWN_RUNS:])],
        num_runs=len(now.runs),
        samples=report.samples,
        clips=[_clip(clip) for clip in report.samples.clips] if report.samples else [],
        codes=codes and code_facts(codes),
        counted=codes and codes.tokens,
        latents=report.latents,
        snapshot=report.snapshot,
        failures=[failure_cells(shard) for shard in now.failures],
        slowest=[(shard["path"], human_seconds(shard["seconds"])) for shard in now.slowest],
        under_way=[(shard["path"], human_seconds(shard["seconds"])) for shard in now.under_way[:10]],
    )


def _state(now: DatasetStatus) -> tuple[str, str]:
    """In a word or two, and whether that is good."""
    if any(run.is_live for run in now.runs):
        return "running", "good"
    if now.done == now.shards:
        return "complete", "good"
    last = now.runs[-1].state if now.runs else "stopped"
    return ("not complete" if last == "ended" else last), "bad"


def _figures(report: Report, busy: Mapping[str, float]) -> list[tuple[str, str]]:
    """The large numbers, and what each is of."""
    now, rejects = report.status, sum(reject.rejects for reject in report.status.rejects)
    found = [
        (f"{now.done:,}" + (f" of {now.shards:,}" if now.done < now.shards else ""), "shards committed"),
        (_short(now.videos), "videos"),
        (_short(now.rows), "clips"),
        (_short(now.tokens), "tokens" if report.latents is None else "latent positions"),
        (f"{rejects / now.videos:.1%}" if rejects else "0", "of the videos rejected" if rejects else "rejects"),
    ]
    if now.rates:
        found.append((per_second(now.rates[-1].clips), f"clips a second, over {human_seconds(now.rates[-1].seconds)}"))
    if "encode" in busy:
        found.append((f"{busy['encode']:.0%}", "of the time the encoder was at work"))
    if report.samples is not None and report.samples.psnr is not None:
        found.append((f"{report.samples.psnr:.1f} dB", f"PSNR of {len(report.samples.clips)} sampled clips"))
    return found


def _short(number: int) -> str:
    """A count in at most five characters or so."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


def _facts(report: Report) -> dict[str, str]:
    """What was run."""
    now, description = report.status, report.description
    model, plan, job = description["model"], description["plan"], description.get("job", {})
    weights = "random: the tokens mean nothing" if model["checkpoint"] == "random" else model["checkpoint"]
    sources = job.get("input", {})
    given = [sources[kind] for kind in ("shards", "videos", "manifests") if sources.get(kind)]
    clips = {name: value for name, value in plan["clips"].items() if value is not None}
    executor = now.runs[-1].record.get("job", {}) if now.runs else {}
    found = {
        "dataset": now.dataset,
        "input": ", ".join(given[0] if isinstance(given[0], list) else given) if given else "",
        "model": model["name"],
        "weights": f"{weights} ({model['weights']})",
        "computed in": plan.get("dtype", ""),
        "clips": ", ".join(f"{name} {value}" for name, value in clips.items()),
        "last run on": ", ".join(f"{name} {value}" for name, value in executor.items() if value is not None),
        "read": human_bytes(now.video_bytes),
        "fingerprint": now.fingerprint,
        "versions": ", ".join(f"{name} {number}" for name, number in description.get("versions", {}).items()),
        "as of": now.read_at,
    }
    return {name: value for name, value in found.items() if value}


def _busy(runs: Sequence[RunStatus]) -> dict[str, float]:
    """For which share of all runs' time each stage was at work."""
    works = [run.record["work"] for run in runs if run.record.get("work", {}).get("worker_seconds")]
    seconds = sum(work["worker_seconds"] for work in works)
    stages = dict.fromkeys(name for work in works for name in work["busy_shares"])
    known = [*(name for name in _STAGES if name in stages), *(name for name in stages if name not in _STAGES)]
    return {
        name: sum(work["busy_shares"].get(name, 0) * work["worker_seconds"] for work in works) / seconds
        for name in known
    }


def _run_cells(run: RunStatus) -> tuple[str, ...]:
    record = run.record
    work, driver = record.get("work", {}), record.get("driver")
    began, heard = (datetime.fromisoformat(record[name]) for name in ("started", "heartbeat"))
    seconds = (heard - began).total_seconds()
    clips, encoder = work.get("clips", 0), work.get("busy_shares", {}).get("encode")
    failed = f", {record['shards_failed']:,} failed" if record.get("shards_failed") else ""
    return (
        run.run_id,
        run.state + (f": {record['error']}" if record.get("error") else ""),
        began.strftime("%Y-%m-%d %H:%M"),
        human_seconds(seconds),
        f"{record.get('shards_done', 0):,}{failed}",
        f"{clips:,}",
        per_second(clips / seconds) if seconds else "",
        "" if encoder is None else f"{encoder:.0%}",
        work.get("bottleneck") or "",
        f"{driver['host']}, {driver['pid']}" if driver else "",
    )


def _clip(clip: SampledClip) -> dict[str, Any]:
    """A row as the template shows it: frame by frame, the original above the reconstruction."""
    row = clip.row
    name = f"{row['source_key']}, clip {row['clip_index']}"
    there = [frames for frames in (clip.originals, clip.reconstructions) if frames is not None]
    kinds = [kind for kind, frames in (("original", clip.originals), ("reconstruction", clip.reconstructions))
             if frames is not None]  # fmt: skip
    pictures = [
        {
            "url": picture_url(np.concatenate([_shrunk(frames[number]) for frames in there])),
            "alt": f"{name} at {seconds:.2f} s: {' above '.join(kinds)}",
            "seconds": f"{seconds:.2f} s",
        }
        for number, seconds in enumerate(clip.seconds)
    ]
    quality = f"{clip.psnr:.1f} dB" if clip.psnr is not None else f"{' and '.join(kinds)} only"
    return {"name": name, "quality": quality, "caption": row["caption"], "row": row, "pictures": pictures}


def _shrunk(pixels_HWC: Frames) -> Frames:
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return np.asarray(picture)


def _scale(work: Throughput) -> tuple[float, str]:
    """In what time is drawn."""
    total = work.seconds_E[-1]
    return (3600.0, "hours") if total > 3 * 3600 else (60.0, "minutes") if total > 180 else (1.0, "seconds")


def _time_axis(axes: Any, work: Throughput) -> None:
    unit, name = _scale(work)
    for number, pause in enumerate(work.pauses):
        label = "nobody was at work" if number == 0 else None
        axes.axvline(pause / unit, color=GREY, linewidth=1, linestyle="--", label=label)
    axes.set_xlim(0, work.seconds_E[-1] / unit)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{name} of work")
    axes.grid(alpha=0.25)
    if work.pauses:
        axes.legend(fontsize="small", frameon=False)
    plain(axes)


def _rate_plot(work: Throughput) -> str:
    figure, axes = new_figure(3.0, width=_PLOT_INCHES)
    unit, _ = _scale(work)
    rates = work.done["clips"] / np.diff(work.seconds_E)
    axes.stairs(rates, work.seconds_E / unit, color=COLOURS[0], linewidth=1.8, fill=False)
    axes.stairs(rates, work.seconds_E / unit, color=COLOURS[0], alpha=0.15, fill=True)
    axes.set_ylabel("clips a second")
    _time_axis(axes, work)
    return svg_of(figure, "clips a second over time")


def _shards_plot(work: Throughput, now: DatasetStatus) -> str:
    """Shards committed over time, of those that runs with a history did."""
    figure, axes = new_figure(3.0, width=_PLOT_INCHES)
    unit, _ = _scale(work)
    done = np.concatenate([[0.0], np.cumsum(work.done["shards_done"])])
    axes.plot(work.seconds_E / unit, done, color=COLOURS[0], linewidth=1.8)
    axes.set_ylabel("shards committed")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if done[-1] < now.shards:
        axes.axhline(now.shards, color=GREY, linewidth=1)
    _time_axis(axes, work)
    return svg_of(figure, "shards committed over time")
