"""What a job would do, found out before anything is written: its shards, its weights, and what they are made of."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import av

from pipeline.checkpoints import Weights, locate_weights
from pipeline.config import JobConfig
from pipeline.dataset import Dataset, check_same_plan, fingerprint
from pipeline.decoding.frames import SAMPLER_VERSION
from pipeline.errors import ConfigError, StorageError, VidtokError
from pipeline.executors.address import check_address
from pipeline.input_config import InputConfig
from pipeline.inputs import read_inputs
from pipeline.records import Shard
from pipeline.rows import FORMAT_VERSION
from pipeline.secrets import redact, redact_url, storable
from pipeline.shard_table import ShardTable
from pipeline.shards import input_root, list_shards, relative_patterns
from pipeline.storage import Store, check_folder, open_store
from pipeline.video_lists import VideoLists, list_videos, read_listed

__all__ = ["Plan", "check_plan", "describe", "make_plan"]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked job.

    Attributes:
        config: the job.
        store: the dataset's root.
        description: what dataset.json says, or will say.
        standing: shards of the input as earlier runs froze it, or None before the first.
        found: shards to add to them: all that the patterns name in a first run, the new ones when appending.
        lists: of videos, that these shards are slices of: files by path, to write before them.
    """

    config: JobConfig
    store: Store
    description: dict[str, Any]
    standing: ShardTable | None
    found: Sequence[Shard]
    lists: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What stands where a job is to write: a dataset, or none; and the shards that earlier runs froze, or None."""

    store: Store
    standing: ShardTable | None
    dataset: Dataset | None


def make_plan(config: JobConfig, *, append: bool = False) -> Plan:
    """Checks a job against the world, up to the first problem. Writes nothing.

    Args:
        config: the job.
        append: add the videos that the input names today and the frozen list lacks.

    Raises:
        ConfigError: the job cannot run as written, or another dataset stands in its output.
        StorageError: a store cannot be reached.
    """
    output = _read_output(config)
    new = _find_new(config, output, append=append)
    weights = locate_weights(config.model, config.storage.input.model_dump())
    description = describe(config, weights)
    if output.dataset is not None:
        check_same_plan(output.dataset, description)
        _check_patterns(config, output.dataset, append=append and output.standing is not None)
    else:
        # A checkpoint that does not fit must not leave a dataset behind, which the right one would not match.
        _check_fit(config, weights)
    return _plan(config, output, new, description)


def check_plan(config: JobConfig) -> tuple[Plan | None, list[VidtokError]]:
    """Checks a job as `make_plan` does, but goes on behind a problem. Writes nothing.

    Returns:
        The plan, or None where there is a problem; and every problem found.
    """
    problems: list[VidtokError] = []

    def attempt(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except VidtokError as error:
            problems.append(error)
            return None

    attempt(lambda: check_address(config.executor))
    with ThreadPoolExecutor(1) as thread:  # a checkpoint may lie far away
        located = thread.submit(lambda: attempt(lambda: _weights(config)))
        output = attempt(lambda: _read_output(config))
        new = attempt(lambda: _find_new(config, output))
        weights = located.result()
    if output is not None:
        attempt(lambda: check_folder(output.store))
    dataset = None if output is None else output.dataset
    if dataset is not None:
        # Without weights, all else is compared.
        standing = Weights(checkpoint="", identity=dataset.description["plan"]["model"]["weights"])
        description = describe(config, weights or standing)
        attempt(lambda: check_same_plan(dataset, description))
        attempt(lambda: _check_patterns(config, dataset, append=False))
    elif weights is not None:
        attempt(lambda: _check_fit(config, weights))
    if output is None or new is None or weights is None or problems:
        return None, problems
    return _plan(config, output, new, describe(config, weights)), []


def _weights(config: JobConfig) -> Weights | None:
    """None where a job, which cannot run then, names none."""
    if config.model.checkpoint is None:
        return None
    return locate_weights(config.model, config.storage.input.model_dump())


def _plan(config: JobConfig, output: _Output, new: VideoLists, description: dict[str, Any]) -> Plan:
    return Plan(
        config=config,
        store=output.store,
        description=description,
        standing=output.standing,
        found=new.shards,
        lists=new.files,
    )


def _read_output(config: JobConfig) -> _Output:
    store = open_store(config.output, config.storage.output.model_dump())
    standing = read_inputs(store)
    return _Output(store=store, standing=standing, dataset=Dataset.open(store) if Dataset.exists(store) else None)


# In a process of its own: a driver that hands out shards needs no PyTorch, and no memory for a model.
_CHECK_FIT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipeline.checkpoints import Weights
from pipeline.config import JobDraft
from pipeline.errors import VidtokError
from pipeline.weights import check_fit
job = json.load(sys.stdin)
answer = [None, ""]
try:
    check_fit(JobDraft.model_validate(job["config"]), Weights(**job["weights"]))
except VidtokError as error:
    answer = [type(error).__name__, str(error)]
print()
print(sys.argv[2] + json.dumps(answer))
"""
_ANSWER = "checked: "


def _check_fit(config: JobConfig, weights: Weights) -> None:
    if config.executor.kind == "inline":
        from pipeline.weights import check_fit  # what works in this process needs PyTorch here

        check_fit(config, weights)
        return
    job = {"config": config.model_dump(mode="json"), "weights": vars(weights)}
    command = [sys.executable, "-c", _CHECK_FIT, json.dumps(sys.path), _ANSWER]
    checked = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    answers = [line.removeprefix(_ANSWER) for line in checked.stdout.splitlines() if line.startswith(_ANSWER)]
    if not answers:  # it died
        said = redact(" ".join(checked.stderr.split())[-500:])
        raise ConfigError(f"model.checkpoint: loading it ended with {checked.returncode}: {said}")
    kind, message = json.loads(answers[-1])
    if kind is not None:
        raise {"ConfigError": ConfigError}.get(kind, StorageError)(message)


def _find_new(config: JobConfig, output: _Output | None, *, append: bool = False) -> VideoLists:
    """What the input names and no shard has: in a first run, or (as where the output cannot be read) when appending."""
    standing: Sequence[Shard] = [] if output is None or output.standing is None else output.standing
    if output is not None and output.standing is not None and not append:
        return VideoLists()
    options = config.storage.input.model_dump()
    if config.input.kind == "shards":
        known = {shard.shard_id for shard in standing}
        return VideoLists([shard for shard in list_shards(config.input, options) if shard.shard_id not in known])
    firsts = (shard for shard in standing if shard.videos is not None and shard.only is None)
    # There are none where there is no output.
    listed = ((shard, read_listed(output.store, shard)) for shard in firsts if output is not None)
    return list_videos(config.input, options, listed)


def _check_patterns(config: JobConfig, dataset: Dataset, *, append: bool) -> None:
    first = InputConfig.model_validate(dataset.description["job"]["input"])
    kind = config.input.kind
    if first.kind != kind:
        raise ConfigError(f"input.{kind}: {dataset.store.root} was begun with input.{first.kind}, and goes on with it")
    if relative_patterns(first) == relative_patterns(config.input):
        return
    if input_root(first) != input_root(config.input):
        raise ConfigError(
            f"input.{kind}: other patterns than the first run's must still have {input_root(first)} for their common "
            f"folder (found {redact_url(input_root(config.input))}), because {kind} are named by their path "
            "below it; where the input has moved, keep the patterns and change the folder"
        )
    if not append:
        log.warning("input.%s is not the first run's; the list of shards that it froze is used", kind)


def describe(config: JobConfig, weights: Weights) -> dict[str, Any]:
    """What dataset.json says: the fingerprint, the plan that it is made of, and where all came from."""
    tokenizer = config.model.tokenizer_config()
    plan = {  # everything that changes a row, and nothing else
        "format_version": FORMAT_VERSION,
        "model": {"config": tokenizer.to_dict(), "weights": weights.identity},
        "dtype": config.model.dtype,
        "clips": {**config.clips.model_dump(exclude={"segment_frames"}), "num_frames": config.clip_frames},
        "limits": config.limits.model_dump(),
        "filters": config.filters.model_dump(),
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
            "torch": version("torch"),
            "av": av.__version__,
            **libraries,
        },
        "job": _without_secrets(config.model_dump(mode="json", exclude={"executor", "budget"})),
    }


def _without_secrets(value: Any) -> Any:
    """A job's values with every URL redacted: a checkpoint may be a presigned link."""
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return storable(value) if isinstance(value, str) else value
