"""vidtok bench pipeline: what a job costs beside decoding and encoding, and how busy it keeps its encoder.

One worker, one decoder, one thread each; a tar of the clips that we carry, over and over, and a small carried model.
"""

import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from jobs.bench.processes import DAEMONS, OURS, WORKERS, cpu_seconds
from pipeline.clips import cut_clips
from pipeline.config import JobConfig
from pipeline.executors import WorkOrder
from pipeline.flow import Work, tokenize_shard
from pipeline.job import Progress, run_job
from pipeline.plan import make_plan
from pipeline.progress import Counters
from pipeline.records import Clip, EncodedClip, Shard
from pipeline.samples import read_shard
from pipeline.worker import ShardWorker
from vidtok_model import CARRIED

__all__ = ["PipelineCost", "bench_pipeline"]

_CLIPS = ("bigbuckbunny.mp4", "cityCC0.mpg")
_SIZE = 128
# Of decoding a clip: what a stand-in waits for a clip while decoding keeps up, and while it does not.
_SLOWER, _FASTER = 3.0, 0.1


@dataclass(frozen=True)
class PipelineCost:
    """What was measured.

    Attributes:
        clips: of a shard.
        cpu_ratio: CPU seconds of a worker on Ray and its decoder over a shard, to those of decoding its videos and
            encoding their clips alone: median.
        lowest: the lowest of the pairs.
        highest: the highest of the pairs.
        start_seconds: CPU seconds of a worker before it began its first shard; this and the next two are medians.
        driver_seconds: those of a driver until two shards are done, without the start of Python.
        daemon_seconds: those of all that Ray runs beside them until then, their start with it.
        encoder_busy: share of a shard's time for which an encoder is busy that waits in place of computing, for three
            times what decoding a clip takes.
        bottleneck_slow: what the report names then.
        encoder_busy_starved: the same, where it waits for a tenth of what decoding takes.
        bottleneck_fast: what the report names then.
    """

    clips: int
    cpu_ratio: float
    lowest: float
    highest: float
    start_seconds: float
    driver_seconds: float
    daemon_seconds: float
    encoder_busy: float
    bottleneck_slow: str | None
    encoder_busy_starved: float
    bottleneck_fast: str | None


def bench_pipeline(*, videos: int, runs: int) -> PipelineCost:
    """Measures shards of as many videos, in pairs with their decoding and encoding alone."""
    with tempfile.TemporaryDirectory(prefix="vidtok-bench-") as folder:
        config = _job(Path(folder), videos)
        plan = make_plan(config)
        (shard,) = plan.found
        with closing(ShardWorker(WorkOrder(config=config, description=plan.description))) as worker:
            bench = _Bench(worker.work, shard)
            bench.job()  # starts the decoder
            job = _ray_job(config)
            pairs = [(_on_ray(job), bench.alone_seconds()) for _ in range(runs)]
            began = time.perf_counter()
            clips = bench.decoded()
            clip_seconds = (time.perf_counter() - began) / len(clips)
            slow = bench.job(_Waiting(worker.work.encoder.batch_size, _SLOWER * clip_seconds))
            fast = bench.job(_Waiting(worker.work.encoder.batch_size, _FASTER * clip_seconds))
    shards = [(second - first)[WORKERS] for (first, second), _ in pairs]
    ratios = [shard / alone for shard, (_, alone) in zip(shards, pairs, strict=True)]
    starts = [first[WORKERS] - shard for shard, ((first, _), _) in zip(shards, pairs, strict=True)]
    return PipelineCost(
        clips=len(clips),
        cpu_ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        start_seconds=statistics.median(starts),
        driver_seconds=statistics.median(second[OURS] for (_, second), _ in pairs),
        daemon_seconds=statistics.median(second[DAEMONS] for (_, second), _ in pairs),
        encoder_busy=slow.busy_share("encode"),
        bottleneck_slow=slow.bottleneck,
        encoder_busy_starved=fast.busy_share("encode"),
        bottleneck_fast=fast.bottleneck,
    )


def _write_tar(path: Path, videos: int) -> None:
    with webdataset.TarWriter(str(path)) as tar:
        for number in range(videos):
            name = _CLIPS[number % len(_CLIPS)]
            data = files("jobs").joinpath("clips", name).read_bytes()
            tar.write({"__key__": f"{number:05d}", name.rpartition(".")[2]: data, "txt": name})


def _job(folder: Path, videos: int) -> JobConfig:
    _write_tar(folder / "videos.tar", videos)
    return JobConfig.model_validate(
        {
            "input": {"shards": str(folder / "videos.tar")},
            "output": str(folder / "out"),
            "model": {"name": next(name for name in CARRIED if "_fsq_" in name)},
            "clips": {"size": _SIZE, "fps": 12},
            "executor": {"kind": "inline", "batch_size": 4, "decoders": 1},
        }
    )


def _ray_job(config: JobConfig) -> dict[str, Any]:
    """A job of one worker on Ray over two shards of the same videos.

    A third shard of one video, the smallest and so the last, keeps the worker until the second is counted.
    """
    tar = Path(config.input.patterns[0])
    for number in range(2):
        (tar.parent / f"ray-{number}.tar").hardlink_to(tar)
    _write_tar(tar.parent / "ray-2.tar", 1)
    job = config.model_dump(mode="json") | {"input": {"shards": str(tar.parent / "ray-*.tar")}}
    job["executor"] |= {"kind": "ray", "address": "local", "num_workers": 1}
    return job


def _on_ray(job: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """CPU seconds of such a job, on a Ray of its own, until its first shard is done and until its second."""
    before, seen = cpu_seconds(), dict[int, Counter[str]]()

    def look(progress: Progress) -> None:
        seen.setdefault(progress.shards_done, cpu_seconds() - before)

    with tempfile.TemporaryDirectory(prefix="vidtok-bench-") as output:
        run_job(JobConfig.model_validate(job | {"output": output}), look)
    return seen[1], seen[2]


class _Bench:
    """One worker's shard in this process, done in whole and in pieces."""

    def __init__(self, work: Work, shard: Shard) -> None:
        self._work = work
        self._shard = shard
        self._jobs = itertools.count()

    def job(self, encoder: Any = None) -> Counters:
        """All of it, as another shard of the same tar."""
        work = replace(self._work, counters=Counters(), encoder=encoder or self._work.encoder)
        number = next(self._jobs)
        tokenize_shard(replace(self._shard, shard_id=f"bench-{number}"), work, attempt_id=f"{number:032x}")
        return work.counters

    def decoded(self) -> list[Clip]:
        """Its clips, decoded and cut."""
        work, config = self._work, self._work.config
        videos = read_shard(work.input, self._shard, start=self._shard.beginning)
        decoded = work.decoder.decode(videos, config.decode_options())
        cut = cut_clips(decoded, lengths=config.clip_lengths, clips=config.clips, takes_stills=False)
        return [item for item in cut if isinstance(item, Clip)]

    def alone_seconds(self) -> float:
        """CPU seconds of decoding and then encoding, in this process and the one that decodes."""
        before = cpu_seconds()[OURS]
        encoder, clips = self._work.encoder, self.decoded()
        encoder.begin_thread()
        for first in range(0, len(clips), encoder.batch_size):
            encoder.begin(clips[first : first + encoder.batch_size])()
        return cpu_seconds()[OURS] - before


class _Waiting:
    """Stands in for a GPU: takes its time, and no core."""

    num_ahead = 1

    def __init__(self, batch_size: int, clip_seconds: float) -> None:
        self.batch_size = batch_size
        self._clip_seconds = clip_seconds
        self._free = 0.0  # when it has done what it was given

    def begin_thread(self) -> None:
        """Needs nothing."""

    def begin(self, clips: list[Clip]) -> Callable[[], list[EncodedClip]]:
        """As a GPU does, works on what it was given before while it is given more."""
        done = self._free = max(self._free, time.monotonic()) + self.batch_size * self._clip_seconds

        def wait() -> list[EncodedClip]:
            time.sleep(max(0.0, done - time.monotonic()))
            return [EncodedClip(tokens_THW=np.zeros((5, 16, 16), np.int32)) for _ in clips]

        return wait
