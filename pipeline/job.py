"""A job from its plan to its end: hand shards to an executor, add up, write snapshots."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.budget import check_budget, check_failures
from pipeline.config import JobConfig
from pipeline.crash_points import crash_point
from pipeline.dataset import Dataset
from pipeline.errors import VidtokError
from pipeline.executors import Executor, InlineExecutor, ShardFailure, WorkOrder
from pipeline.inputs import grow_inputs
from pipeline.logs import identify
from pipeline.plan import Plan, make_plan
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.run_facts import RunFacts
from pipeline.runs import Run, announced
from pipeline.shard_table import ShardTable
from pipeline.snapshots import Snapshot, add_to_snapshot, newest_snapshot
from pipeline.storage import check_conditional_put

__all__ = ["JobResult", "Progress", "make_executor", "prepare", "run_job", "run_shards"]

log = logging.getLogger(__name__)

# What a driver keeps of commits that are in no snapshot yet: so many parts, some tens of MB.
_MOST_PARTS = 10_000

Choose = Callable[[Sequence[Shard]], Sequence[Shard]]
Share = tuple[int, int]


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
        totals: videos, rows, tokens and rejects of the shards committed by this run.
        failures: the shards given up, with the error of each attempt.
    """

    output: str
    progress: Progress
    totals: Counter[str] = field(default_factory=Counter)
    failures: list[ShardFailure] = field(default_factory=list)


def prepare(plan: Plan, choose: Choose | None = None) -> ShardTable:
    """Writes what a job's dataset begins with, where it is not there; whoever else does so at the same time.

    Args:
        plan: the job.
        choose: from the shards that there are, which to add; by default those that the plan found.

    Returns:
        All shards of the input.

    Raises:
        ConfigError: another dataset stands there, or the store does not do what is relied on.
        StorageError: the store failed.
    """
    Dataset.create(plan.store, plan.description)
    crash_point("dataset-described")

    def found(standing: Sequence[Shard]) -> Sequence[Shard]:
        if standing and plan.standing is None and not plan.lists:
            return []  # another first run froze its list before us
        if plan.lists and standing != (plan.standing or []):
            # Somebody added videos meanwhile, which ours may be.
            ours = {shard.shard_id for shard in plan.found} - {shard.shard_id for shard in standing}
            if ours:
                log.warning("another run added videos meanwhile; `vidtok tokenize --append` adds what is still missing")
            return []
        known = {shard.shard_id for shard in standing} if plan.found else set()
        return [shard for shard in plan.found if shard.shard_id not in known]

    for path, data in plan.lists.items():
        plan.store.put_if_absent(path, data)  # named by its content
    shards = grow_inputs(plan.store, choose or found)
    crash_point("inputs-frozen")
    return shards


def run_job(
    config: JobConfig,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    append: bool = False,
    share: Share = (0, 1),
) -> JobResult:
    """Runs a job until every shard is committed or given up.

    Args:
        config: the job.
        on_progress: called now and then, from this thread, with the state so far.
        append: add videos that came after the first run froze the list.
        share: (k, n): of every n shards the k-th, counted from 0, and no others.

    Raises:
        ConfigError: the job cannot run; nothing was tokenized.
        StorageError: a store could not be reached while preparing.
        ErrorBudgetExceeded: too many videos were rejected.
        WorkerUnfit: no worker computes what it should.
    """
    return run_shards(make_plan(config, append=append), None, on_progress, share=share)


def run_shards(
    plan: Plan,
    choose: Choose | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    share: Share = (0, 1),
) -> JobResult:
    """Runs a checked job; `choose` as for `prepare`, the others and errors as for `run_job`."""
    pending: ShardTable | None = None
    snapshot = newest_snapshot(plan.store, ids_alone=True)
    if plan.standing is not None and not plan.found and choose is None:
        mine = _share_of(plan.standing, share)
        pending = Dataset(plan.store, plan.description).pending(mine, snapshot)
        if not pending and not mine.without(snapshot.ids):
            total = len(mine)  # nothing to do, so nothing is written
            done = Progress(shards=total, shards_before=total)
            on_progress(done)
            return JobResult(output=plan.config.output, progress=done)
    check_conditional_put(plan.store)
    with announced(plan.store) as run:
        identify(run=run.run_id)
        shards = prepare(plan, choose)
        if shards != plan.standing:
            pending = None  # the list has grown meanwhile
        dataset = Dataset(plan.store, plan.description)
        mine = _share_of(shards, share)
        pending = dataset.pending(mine, snapshot) if pending is None else pending
        return _run_announced(plan, mine, pending, _SnapshotKeeper(dataset, snapshot), run, on_progress)


def _share_of(shards: ShardTable, share: Share) -> ShardTable:
    """By their places in the list, which is frozen: shares hold each shard once, whoever begins first."""
    number, of = share
    return shards if of == 1 else shards.chosen(np.arange(number, len(shards), of))


def _run_announced(
    plan: Plan,
    shards: ShardTable,
    pending: ShardTable,
    keeper: "_SnapshotKeeper",
    run: Run,
    on_progress: Callable[[Progress], None],
) -> JobResult:
    size = int(pending.sizes().sum())
    before = len(shards) - len(pending)
    progress = Progress(shards=len(shards), shards_before=before, bytes_left=size, bytes_total=size)
    result = JobResult(output=plan.config.output, progress=progress)
    facts = RunFacts(run.facts, plan.config, progress)
    run.beat("running")  # whoever dies soon has said at least this
    on_progress(progress)

    def on_work(counters: Counters, under_way: Sequence[Shard]) -> None:
        progress.counters = counters
        facts.update(under_way)
        on_progress(progress)
        check_budget(counters, plan.config.budget, plan.store.root)

    order = WorkOrder(config=plan.config, description=plan.description, run_id=run.run_id)
    in_a_row = 0
    given = _largest_first(pending, run.run_id)
    for outcome in make_executor(plan.config).run(order, given, on_work) if pending else ():
        if isinstance(outcome, ShardFailure):
            progress.shards_failed += 1
            progress.bytes_left -= outcome.size_bytes
            result.failures.append(outcome)
            facts.failed(outcome)
            said, told = "shard %s: given up after %d attempts: %s", {"shard": outcome.shard_id}
            log.error(said, outcome.path, outcome.attempts, outcome.error, extra=told)
            in_a_row += 1
            check_failures(in_a_row, len(given), plan.config.budget, f"{outcome.path}: {outcome.error}")
        else:
            progress.shards_done += 1
            in_a_row = 0
            progress.bytes_left -= outcome["source"]["size_bytes"]
            result.totals.update({name: outcome[name] for name in ("videos", "rows", "tokens")})
            result.totals["rejects"] += sum(outcome["rejects_by_class"].values())
            facts.done(outcome["shard_id"], outcome["source"]["path"])
            keeper.add(outcome)
        on_progress(progress)
    keeper.complete(shards)
    return result


def _largest_first(shards: ShardTable, run_id: str) -> ShardTable:
    """The order in which a run gives out shards: large ones first, so that no long one is left for the end.

    Shards of about one size come in an order of the run's own, so that two drivers do not do the same ones.
    """
    dice = np.random.default_rng(list(run_id.encode()))
    magnitude = np.frexp(shards.sizes())[1]  # as of bit_length
    return shards.chosen(np.lexsort((dice.permutation(len(shards)), -magnitude)))


class _SnapshotKeeper:
    """Puts a run's commits into the snapshot: by hundreds while it works, and with what others left out at its end.

    Snapshots are derived: where one cannot be written, that is only warned of, and the next one makes up for it.
    """

    def __init__(self, dataset: Dataset, snapshot: Snapshot) -> None:
        self._dataset = dataset
        self._snapshot = snapshot
        self._new: list[dict[str, Any]] = []
        self._num_parts = 0
        self._due = snapshot.of_a_file

    def add(self, commit: dict[str, Any]) -> None:
        """Takes the commit of a shard that was just done."""
        self._new.append(commit)
        self._num_parts += len(commit["parts"])
        if len(self._new) >= self._due or self._num_parts >= _MOST_PARTS:
            self._write()

    def complete(self, shards: ShardTable) -> None:
        """Writes what is new, and the commits of these shards that others left in no snapshot, which are read here."""
        try:
            self._snapshot = newest_snapshot(self._dataset.store, self._snapshot, ids_alone=True)
            mine = pa.array([commit["shard_id"] for commit in self._new], pa.string())
            others = shards.without(self._snapshot.ids).without(mine)
            for commit in self._dataset.committed(others):
                self.add(commit)
        except VidtokError as error:
            log.warning("no snapshot was written: %s", error)
        self._write()

    def _write(self) -> None:
        due = len(self._new)  # where it fails, as many again are waited for
        self._num_parts = 0
        try:
            self._snapshot = add_to_snapshot(self._dataset.store, self._new, self._snapshot)
            self._new.clear()
            due = 0
        except VidtokError as error:
            log.warning("no snapshot was written: %s", error)
        self._due = due + self._snapshot.of_a_file


def make_executor(config: JobConfig) -> Executor:
    """The executor that a job asks for."""
    if config.executor.kind == "inline":
        return InlineExecutor()
    from pipeline.executors.ray import RayExecutor  # Ray takes a second to import, and inline needs none of it

    return RayExecutor()
