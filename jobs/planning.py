"""`vidtok plan`: what a job costs and gives, before it starts; it writes nothing."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.display import CountDisplay
from jobs.logs import log_to
from jobs.options import Assignments
from pipeline.errors import ConfigError
from pipeline.model_config import RANDOM_CHECKPOINT

if TYPE_CHECKING:
    from pipeline.config import JobConfig, StoreConfig
    from pipeline.estimate import Estimate
    from pipeline.measuring import Speed
    from pipeline.plan import Plan
    from pipeline.records import Shard
    from pipeline.worker_memory import MemoryTerm

__all__ = ["Forecast", "about_plan", "checked_plan", "plan", "shards_left"]

# A store that does not answer is found out soon, and all of them in one go.
_RETRY_SECONDS, _ANSWER_SECONDS = 5.0, 10.0


@dataclass(kw_only=True)
class Forecast:
    """What `vidtok plan` found.

    Attributes:
        job: what is planned, in words.
        shards: of the input.
        committed: of these, those that are done.
        seed: of the sample.
        estimate: of what is left.
        memory: the terms of a worker's bound.
        speed: of the encoder, measured here, or None.
        clips_per_second: of one GPU, as it was given or measured on one; None where nobody knows.
        price: of a GPU's hour, or None.
        seconds: that the sample took.
    """

    job: dict[str, str]
    shards: int
    committed: int
    seed: int
    estimate: "Estimate"
    memory: "list[MemoryTerm]"
    speed: "Speed | None"
    clips_per_second: float | None
    price: float | None
    seconds: float

    @property
    def gpu_hours(self) -> float | None:
        """Of encoding all that is left; None where nobody knows how fast a GPU is."""
        rows = self.estimate.quantities["rows"].value
        return rows / self.clips_per_second / 3600 if self.clips_per_second else None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        hours = self.gpu_hours
        cost = None if hours is None or self.price is None else hours * self.price
        return {**asdict(self), "gpu_hours": hours, "cost": cost}


def plan(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).")],
    assignments: Assignments = None,
    videos: Annotated[int, typer.Option(min=1, help="Videos to look at, drawn from all there are.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    clips_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="What one GPU encodes, for GPU-hours.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Encode sampled clips on this machine: its speed, and real codes.")
    ] = False,
    measure_seconds: Annotated[float, typer.Option(min=0.001, help="For how long, with --measure.")] = 30.0,
    price: Annotated[float | None, typer.Option(min=0, help="Of a GPU's hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Show what a job costs and gives before it starts, or all that keeps it from starting. Writes nothing."""
    from jobs.planning_tables import show_forecast

    err = Console(stderr=True, emoji=False)
    log_to(err)
    if price is not None and clips_per_second is None and not measure:
        raise ConfigError("--price: GPU-hours follow from --clips-per-second, or from --measure on a GPU")
    planned = checked_plan(job, assignments or [])
    total, left = shards_left(planned)
    if not left:
        nothing = {"shards": total, "committed": total}
        done = json.dumps(nothing) if as_json else f"Nothing to do: all {total:,} shards are committed"
        sys.stdout.write(f"{done}\n")
        return
    found = _forecast(err, planned, total, left, count=videos, seed=seed, seconds=measure_seconds if measure else None)
    if clips_per_second is None and found.speed is not None and found.speed.is_gpu:
        clips_per_second = found.speed.clips_per_second
    found.clips_per_second, found.price = clips_per_second, price
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n")
    else:
        show_forecast(Console(width=None if sys.stdout.isatty() else 140, emoji=False), found, planned.config)


def checked_plan(path: Path, assignments: Sequence[str]) -> "Plan":
    """The plan of a job file.

    Raises:
        ConfigError: with everything that keeps the job from running.
    """
    from pipeline.config import JobDraft
    from pipeline.job_file import load_draft
    from pipeline.plan import check_plan

    written, refused = load_draft(path, assignments, JobDraft)
    if written is None:
        raise ConfigError(refused)
    draft = _impatient(written)
    planned, problems = check_plan(draft)
    lines = [*refused, *draft.misfits(), *(line for problem in problems for line in str(problem).splitlines())]
    if lines or planned is None:
        raise ConfigError(lines)
    return planned


def _impatient(job: "JobConfig") -> "JobConfig":
    """The job, asking stores for a few seconds at most."""

    def impatient(store: "StoreConfig") -> "StoreConfig":
        retry = min(store.retry_seconds, _RETRY_SECONDS)
        return store.model_copy(
            update={"retry_seconds": retry, "answer_seconds": min(store.answer_seconds, _ANSWER_SECONDS)}
        )

    stores = {"input": impatient(job.storage.input), "output": impatient(job.storage.output)}
    return job.model_copy(update={"storage": job.storage.model_copy(update=stores)})


def shards_left(planned: "Plan") -> "tuple[int, Sequence[Shard]]":
    """How many shards the input has, and those that are not committed; supplementary ones aside."""
    from pipeline.dataset import Dataset
    from pipeline.snapshots import newest_snapshot

    if planned.standing is None:
        return len(planned.found), planned.found
    dataset = Dataset(planned.store, planned.description)
    pending = dataset.pending(planned.standing, newest_snapshot(planned.store, ids_alone=True))
    return len(planned.standing), [shard for shard in pending if shard.only is None]


def _forecast(
    err: Console,
    planned: "Plan",
    total: int,
    left: "Sequence[Shard]",
    *,
    count: int,
    seed: int,
    seconds: float | None,
) -> Forecast:
    from pipeline.estimate import estimate_job
    from pipeline.probing import DrawnCodes, probe_videos
    from pipeline.sampling import draw_videos

    began = time.monotonic()
    config = planned.config
    measured = None
    encode: Any = DrawnCodes(config.model.tokenizer_config(), seed=seed)
    if seconds is not None:
        from pipeline.measuring import MeasuredEncoder  # PyTorch takes a second to import

        encode = measured = MeasuredEncoder(planned, seconds=seconds)
    with CountDisplay(err, "videos sampled") as on_progress:
        sample = draw_videos(planned, left, count, seed)
        probed = probe_videos(
            sample,
            encode,
            batch_size=1 if measured is None else measured.batch_size,
            num_decoders=max(1, os.cpu_count() or 1),
            on_progress=on_progress,
        )
    estimate = estimate_job(planned, left, sample, probed)
    return Forecast(
        job=about_plan(planned),
        shards=total,
        committed=total - len(left),
        seed=seed,
        estimate=estimate,
        memory=_memory(planned, estimate),
        speed=None if measured is None else measured.speed,
        clips_per_second=None,
        price=None,
        seconds=time.monotonic() - began,
    )


def about_plan(planned: "Plan") -> dict[str, str]:
    """What is planned, for a person."""
    config = planned.config
    clips = config.clips
    rate = f"{clips.fps:g} frames a second" if clips.fps else f"every {clips.every or 1}. frame"
    return {
        "model": f"{config.model.name}, {config.model.dtype}",
        "clips": f"{config.clip_frames} frames of {clips.size} pixels ({clips.crop}), {rate}"
        + (", in streams" if config.is_stream else ""),
        "output": planned.store.root,
    }


def _memory(planned: "Plan", estimate: "Estimate") -> "list[MemoryTerm]":
    from pipeline.checkpoints import local_file
    from pipeline.worker_memory import worker_memory

    config, weights = planned.config, planned.description["model"]
    weights_bytes = 0
    if config.model.checkpoint != RANDOM_CHECKPOINT:
        options = config.storage.input.model_dump()
        path, _ = local_file(str(config.model.checkpoint), options, sha256=weights["weights"])
        weights_bytes = path.stat().st_size
    return worker_memory(
        config,
        weights_bytes=weights_bytes,
        video_bytes=estimate.largest_video_bytes,
        frame_bytes=max(estimate.largest_frame_bytes, 3 * config.clips.size**2),
        rows_bytes=estimate.largest_rows_bytes,
    )
