"""A job from its file to its end: prepare, hand shards to an executor, add up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import av
import torch

from pipeline.config import JobConfig
from pipeline.dataset import Dataset, fingerprint, read_inputs
from pipeline.decode import SAMPLER_VERSION
from pipeline.executors import Executor, InlineExecutor, ShardFailure
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.rows import FORMAT_VERSION
from pipeline.shards import list_shards, relative_patterns
from pipeline.storage import open_store, redact_url
from pipeline.weights import Weights, load_weights, locate_weights
from pipeline.worker import WorkOrder

__all__ = ["JobResult", "Progress", "describe", "make_executor", "prepare", "run_job"]

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        shards: in the input.
        shards_before: of these, committed by earlier runs.
        shards_done: committed by this run.
        shards_failed: given up by this run.
        bytes_left: of input in shards not yet committed or failed.
        bytes_total: of input in the shards that this run has to do.
        counters: work of this run, partly done shards included.
    """

    shards: int
    shards_before: int
    shards_done: int = 0
    shards_failed: int = 0
    bytes_left: int = 0
    bytes_total: int = 0
    counters: Counters = field(default_factory=Counters)


@dataclass(kw_only=True)
class JobResult:
    """What a run did.

    Attributes:
        output: the dataset's root.
        progress: the last state.
        commits: what each shard committed by this run holds (see ShardLog.commit).
        failures: the shards given up, with the last error of each.
    """

    output: str
    progress: Progress
    commits: list[dict[str, Any]]
    failures: list[ShardFailure]


def prepare(config: JobConfig) -> tuple[dict[str, Any], list[Shard], int]:
    """Opens or makes the dataset of a job.

    Returns:
        What dataset.json says, the shards still to do, and how many the input has.

    Raises:
        ConfigError: the job cannot run as written, or another dataset stands in its output.
        StorageError: a store cannot be reached.
    """
    input_options = config.storage.input.model_dump()
    store = open_store(config.output, config.storage.output.model_dump())
    shards = read_inputs(store)
    if shards is None:
        shards = list_shards(config.input.shards, input_options)  # before anything is written
    weights = locate_weights(config.model, input_options)
    description = describe(config, weights)
    if not Dataset.exists(store):
        # A checkpoint that does not fit must not leave a dataset behind, which the right one would not match.
        load_weights(
            config.model.tokenizer_config(),
            weights,
            checkpoint=config.model.checkpoint,
            device="cpu",
            dtype=torch.float32,
            options=input_options,
        )
    dataset = Dataset.create(store, description)
    first_patterns = dataset.description["job"]["input"]["shards"]
    if relative_patterns(first_patterns) != relative_patterns(config.input.shards):
        log.warning("input.shards is not the first run's; the list of shards that it froze is used")
    shards = dataset.freeze_inputs(shards)
    done = dataset.committed()
    return description, [shard for shard in shards if shard.shard_id not in done], len(shards)


def describe(config: JobConfig, weights: Weights) -> dict[str, Any]:
    """What dataset.json says: the fingerprint, the plan that it is made of, and where all came from."""
    tokenizer = config.model.tokenizer_config()
    plan = {  # everything that changes a row, and nothing else
        "format_version": FORMAT_VERSION,
        "model": {"config": tokenizer.to_dict(), "weights": weights.identity},
        "dtype": config.model.dtype,
        "clips": {**config.clips.model_dump(), "num_frames": config.clip_frames},
        "sampler_version": SAMPLER_VERSION,
        "logvar": config.rows.logvar,
    }
    libraries = {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    return {
        "format": "vidtok",
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(plan),
        "plan": plan,
        "model": {
            "name": config.model.name,
            "checkpoint": weights.checkpoint,
            "weights": weights.identity,
            "seed": config.model.seed,
            "config": tokenizer.to_dict(),
        },
        "versions": {
            "vidtok-pipeline": version("vidtok-pipeline"),
            "torch": torch.__version__,
            "av": av.__version__,
            **libraries,
        },
        "job": _without_secrets(config.model_dump(mode="json", exclude={"executor"})),
    }


def _without_secrets(value: Any) -> Any:
    """A job's values with every URL redacted: a checkpoint may be a presigned link."""
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return redact_url(value) if isinstance(value, str) else value


def run_job(config: JobConfig, on_progress: Callable[[Progress], None] = lambda _: None) -> JobResult:
    """Runs a job until every shard is committed or given up.

    Args:
        config: the job.
        on_progress: called now and then, from this thread, with the state so far.

    Raises:
        ConfigError: the job cannot run; nothing was tokenized.
        StorageError: a store could not be reached while preparing.
    """
    description, pending, total = prepare(config)
    size = sum(shard.size_bytes for shard in pending)
    progress = Progress(shards=total, shards_before=total - len(pending), bytes_left=size, bytes_total=size)
    result = JobResult(output=config.output, progress=progress, commits=[], failures=[])
    on_progress(progress)
    if not pending:
        return result

    def on_counters(counters: Counters) -> None:
        progress.counters = counters
        on_progress(progress)

    order = WorkOrder(config=config, description=description)
    sizes = {shard.shard_id: shard.size_bytes for shard in pending}
    for outcome in make_executor(config).run(order, pending, on_counters):
        if isinstance(outcome, ShardFailure):
            progress.shards_failed += 1
            result.failures.append(outcome)
            log.error("shard %s: given up after %d attempts: %s", outcome.path, outcome.attempts, outcome.error)
        else:
            progress.shards_done += 1
            result.commits.append(outcome)
        progress.bytes_left -= sizes[outcome.shard_id if isinstance(outcome, ShardFailure) else outcome["shard_id"]]
        on_progress(progress)
    return result


def make_executor(config: JobConfig) -> Executor:
    """The executor that a job asks for."""
    if config.executor.kind == "inline":
        return InlineExecutor()
    from pipeline.executors.ray import RayExecutor  # Ray takes a second to import, and inline needs none of it

    return RayExecutor()
