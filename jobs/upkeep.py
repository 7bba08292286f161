"""What a person does with a dataset after, or between, its jobs: verify it, clean up, try rejects again."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from jobs.display import human_bytes
from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.garbage import collect_garbage
from pipeline.input_config import InputConfig
from pipeline.job import JobResult, run_shards
from pipeline.plan import make_plan
from pipeline.records import Shard
from pipeline.rejected import outstanding_rejects, retry_shards
from pipeline.rewriting import rewrite_parts
from pipeline.shards import input_root
from pipeline.storage import Store, open_store
from pipeline.verify import verify_dataset

__all__ = ["remove_garbage", "retry_rejects", "verify"]


def verify(
    console: Console, root: str, *, deep: bool, source: bool, shards: str | None, options: Mapping[str, Any]
) -> bool:
    """Prints what is wrong with a dataset; True where nothing is.

    Args:
        console: where to print.
        root: the dataset's root.
        deep: check every file's sha256.
        source: hold it against its input.
        shards: patterns of where the input lies now; None: where the first run found it.
        options: how to reach the dataset's store.
    """
    dataset = Dataset.open(open_store(root, options))
    verdict = verify_dataset(dataset, deep=deep, source=_source(dataset, shards) if source else None)
    for problem in verdict.problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    state = f"{len(verdict.problems):,} problems" if verdict.problems else "no problem"
    left = f"; {verdict.uncommitted:,} shards of the input are not committed" if verdict.uncommitted else ""
    removed = f" ({verdict.removed:,} of them removed)" if verdict.removed else ""
    console.print(
        f"{state} in {verdict.rows:,} rows{removed} of {verdict.shards:,} committed shards{left}", highlight=False
    )
    return not verdict.problems


def _source(dataset: Dataset, shards: str | None) -> Store:
    job = dataset.description["job"]
    given = InputConfig.model_validate(job["input"])
    place = input_root(InputConfig.model_validate({given.kind: shards}) if shards else given)
    return open_store(place, job["storage"]["input"])


def remove_garbage(
    console: Console, root: str, *, remove: bool, shard: str | None, rewrite: bool, options: Mapping[str, Any]
) -> None:
    """Prints, and removes if told, what no commit names or will name; see `collect_garbage`.

    With `rewrite` also the rows that were removed, out of the parts that hold them; see `rewrite_parts`.
    """
    dataset = Dataset.open(open_store(root, options))
    count = size = 0
    for info in collect_garbage(dataset, remove=remove, shard=shard):
        console.print(f"{info.path}  {human_bytes(info.size_bytes)}", markup=False, highlight=False, soft_wrap=True)
        count, size = count + 1, size + info.size_bytes
    done = "removed" if remove else "would be removed with --remove"
    parts = rows = 0
    for part in rewrite_parts(dataset, remove=remove) if rewrite else []:
        line = f"{part.path}  {part.rows:,} removed rows of {part.committed_rows:,}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        parts, rows = parts + 1, rows + part.rows
    if count:
        console.print(f"{count:,} objects, {human_bytes(size)}: {done}", highlight=False)
    if parts:
        done = "erased" if remove else "would be erased with --remove"
        console.print(f"{rows:,} rows in {parts:,} parts: {done}", highlight=False)
        if remove and any(dataset.store.list("_delta_log")):
            told = "The Delta table names these parts as they were: readers fail until `vidtok export delta` runs"
            console.print(told, highlight=False, soft_wrap=True)
    if not count and not parts:
        console.print("nothing to remove", highlight=False)


def retry_rejects(config: JobConfig, classes: list[str], on_progress: Any) -> tuple[JobResult, int]:
    """Adds supplementary shards for the videos rejected with one of these classes, and runs the job.

    Returns:
        What the run did, and how many videos it added to try again.

    Raises:
        ConfigError: the job has no dataset yet, or no reject that is left has such a class.
    """
    plan = make_plan(config)
    if plan.standing is None:
        raise ConfigError(f"output: {plan.store.root} holds no dataset whose rejects could be tried again")
    dataset = Dataset.open(plan.store)
    added: list[Shard] = []

    def choose(standing: Sequence[Shard]) -> list[Shard]:
        chosen = retry_shards(dataset, standing, classes)
        added[:] = chosen or added
        return chosen

    if not choose(plan.standing):
        left = outstanding_rejects(dataset)
        found = sorted({reject["error"] for rejects in left.values() for reject in rejects.values()})
        if not set(classes) & set(found):
            raise ConfigError(
                f"--class: no video is left that was rejected as {', '.join(classes)}"
                + (f"; there are rejects of the classes {', '.join(found)}" if found else "; there are no rejects")
            )
    result = run_shards(plan, choose, on_progress)
    ours = {shard.shard_id: shard for shard in dataset.inputs()}
    return result, sum(len(shard.only or ()) for shard in added if ours.get(shard.shard_id) == shard)
