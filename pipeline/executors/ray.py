"""Shards on Ray actors: each pinned to its GPUs or cores, each doing one shard at a time.

Only shard descriptions, commits and counts cross Ray; frames never leave the worker's process.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.config import ExecutorConfig
from pipeline.errors import ConfigError, ShardError, Stopped, VidtokError, WorkerUnfit
from pipeline.executors.base import OnWork, ShardFailure, WorkOrder, is_retryable
from pipeline.executors.ray_actor import Member, ShardActor, cause_of
from pipeline.executors.ray_metrics import RunMetrics, Tally
from pipeline.executors.shard_queue import ShardQueue, ShardTask
from pipeline.executors.suspicion import Suspicion
from pipeline.logs import adopt_logger, log_settings
from pipeline.progress import Counters
from pipeline.shard_table import ShardTable
from pipeline.stopping import check_stop, keep_stop_on_sigterm

__all__ = ["RayExecutor"]

_TICK_SECONDS = 0.5
_SILENCE_SECONDS = 30.0
# So many starts may fail, one after the other and more with many workers, before nobody is waited for any more.
_STARTS_AT_LEAST, _LONGEST_PAUSE_SECONDS = 8, 60.0
# A worker that fails so many shards and does none between is replaced.
_FAILED_AT_MOST = 2

log = logging.getLogger(__name__)


class RayExecutor:
    """Works on the cluster that Ray finds, or on a local one that ends with the run."""

    def run(self, order: WorkOrder, shards: ShardTable, on_work: OnWork) -> Iterator[dict[str, Any] | ShardFailure]:
        """See Executor.run."""
        with _session(order.config.executor):
            crew = _Crew(order, shards)
            try:
                yield from crew.work(on_work)
            finally:
                crew.dismiss()


class _Crew:
    """The actors of a job: shards go to whichever is ready first; those that come late join in.

    There are as many as there are shards left for them, up to `num_workers`, so that a cluster grows with the work and
    shrinks at its end. For one that died another is asked for, which waits for a place wherever there is one: an actor
    that Ray starts anew fails its calls until it has one.
    """

    def __init__(self, order: WorkOrder, shards: ShardTable) -> None:
        self._max_attempts = order.config.executor.max_attempts
        self._num_workers = order.config.executor.num_workers
        self._hung_seconds = order.config.executor.hung_seconds
        resources = _resources(order.config.executor)
        decorate: Any = ray.remote(concurrency_groups={"watch": 1})  # type: ignore[call-overload]  # not in its types
        remote = decorate(ShardActor).options(**resources)
        self._new_actor: Callable[[], Any] = lambda: remote.remote(order, log_settings())
        self._queue = ShardQueue(shards, max_attempts=self._max_attempts, wait_for=self._num_workers)
        self._suspicion = Suspicion()
        self._starting: dict[Any, Member] = {}
        self._idle: list[Member] = []
        self._running: dict[Any, tuple[Member, ShardTask]] = {}
        self._parked: list[Member] = []  # unfit ones
        self._failed_starts, self._has_started = 0, False  # since one started; whether any ever did
        self._hire_after = 0.0
        self._before = Counters()  # of processes that are gone
        self._metrics = RunMetrics(order)
        self._tally = Tally(int(shards.sizes().sum()))
        self._wanted = f"{self._num_workers} workers of {resources}"

    @property
    def _members(self) -> list[Member]:
        return [*self._idle, *self._starting.values(), *(member for member, _ in self._running.values())]

    def work(self, on_work: OnWork) -> Iterator[dict[str, Any] | ShardFailure]:
        heard = looked = time.monotonic()
        while self._queue or self._running:
            check_stop()
            self._hand_out()
            ready = self._ready()
            for answer in self._starting.keys() & set(ready):
                self._started(answer)
            outcomes = [outcome for answer in ready if answer in self._running and (outcome := self._ended(answer))]
            self._hand_out()  # before the outcomes are written down, so that nobody waits for that
            for outcome in outcomes:
                self._tally.end(outcome)
                yield outcome
            now = time.monotonic()
            if ready or self._running:
                heard = now
            elif now - heard > _SILENCE_SECONDS:
                heard = now
                log.warning("no worker is ready yet: %s wanted, free are %s", self._wanted, ray.available_resources())  # type: ignore[no-untyped-call]
            if now - looked >= _TICK_SECONDS:
                looked = now
                self._tell(on_work)
        self._tell(on_work)

    def _tell(self, on_work: OnWork) -> None:
        """How far it is, for a person and as metrics."""
        counters = self._count()
        shards = {"waiting": len(self._queue), "under_way": len(self._running)}
        states = {"starting": self._starting, "idle": self._idle, "working": self._running, "parked": self._parked}
        workers = {state: len(those) for state, those in states.items()}
        self._metrics.crew(self._tally, counters, shards=shards, workers=workers)
        on_work(counters, [task.shard for _, task in self._running.values()])

    def _hand_out(self) -> None:
        self._fit()
        while self._queue and (member := self._free()):
            task = self._queue.next()
            member.moved = time.monotonic()
            self._running[member.actor.tokenize.remote(task.shard)] = (member, task)

    def _ready(self) -> list[Any]:
        """The answers that are there, waited for a moment."""
        waited_for = [*self._running, *self._starting]
        if not waited_for:  # nobody may get a shard, or be hired, just now
            time.sleep(_TICK_SECONDS)
            return []
        if not ray.wait(waited_for, timeout=_TICK_SECONDS)[0]:
            return []
        return list(ray.wait(waited_for, num_returns=len(waited_for), timeout=0)[0])

    def dismiss(self) -> None:
        for member in [*self._members, *self._parked]:
            with contextlib.suppress(RayError, ValueError):  # the cluster may be gone
                ray.kill(member.actor)

    def _free(self) -> Member | None:
        """A worker that has nothing to do, and may get a shard."""
        nodes = {member.node for member in self._members if member.is_started}
        for number, member in enumerate(self._idle):
            if self._suspicion.allows(member.node, nodes):
                return self._idle.pop(number)
        return None

    def _fit(self) -> None:
        """Hires and dismisses, so that there are as many as there is work for; none of those who work."""
        surplus = len(self._members) - min(self._num_workers, len(self._queue) + len(self._running))
        for _ in range(-surplus if time.monotonic() >= self._hire_after else 0):
            member = Member(self._new_actor())
            self._starting[member.actor.start.remote()] = member
        for _ in range(min(surplus, len(self._idle))):
            self._dismiss(self._idle.pop())
            surplus -= 1
        for answer in list(self._starting)[: max(surplus, 0)]:
            self._dismiss(self._starting.pop(answer))

    def _lose(self, member: Member, why: str) -> None:
        self._tally.workers_lost[why] += 1
        self._dismiss(member)

    def _dismiss(self, member: Member) -> None:
        ray.kill(member.actor)
        member.is_started = False
        self._before += member.counters

    def _started(self, answer: Any) -> None:
        member = self._starting.pop(answer)
        try:
            member.node = ray.get(answer)
        except RayError as error:
            self._failed_to_start(member, cause_of(error))
        else:
            member.is_started, self._failed_starts, self._has_started = True, 0, True
            self._idle.append(member)

    def _failed_to_start(self, member: Member, cause: BaseException) -> None:
        if isinstance(cause, WorkerUnfit) or (self._has_started and not is_retryable(cause)):
            self._park(member, cause)
            return
        if not is_retryable(cause):
            raise cause
        self._lose(member, "not_started")
        self._failed_starts += 1
        if self._failed_starts >= max(_STARTS_AT_LEAST, self._max_attempts * self._num_workers) and not self._running:
            raise ShardError(f"no worker could start, {self._failed_starts} tried: {cause}")
        pause = min(2.0 ** (self._failed_starts - 1), _LONGEST_PAUSE_SECONDS)
        self._hire_after = time.monotonic() + pause
        log.warning("a worker could not start, and another is asked for in %.0f s: %s", pause, cause)

    def _park(self, member: Member, cause: BaseException) -> None:
        """Leaves a worker where it is, so that no other gets its device; raises why where there were none but such."""
        self._tally.workers_lost["unfit"] += 1
        self._before += member.counters
        self._parked.append(member)
        if len(self._parked) >= self._num_workers:
            raise cause
        log.error("a worker is left out: %s", cause)

    def _ended(self, answer: Any) -> dict[str, Any] | ShardFailure | None:
        member, task = self._running.pop(answer)
        try:
            commit: dict[str, Any]
            commit, member.counters = ray.get(answer)
        except RayError as error:
            return self._failed(member, task, error)
        member.asked = None  # an answer on its way would be older
        member.failed_in_a_row = 0
        self._suspicion.done(member.node)
        self._idle.append(member)
        return commit

    def _failed(self, member: Member, task: ShardTask, error: RayError) -> ShardFailure | None:
        cause = cause_of(error)
        if isinstance(cause, WorkerUnfit):
            self._queue.give_back(task)
            self._park(member, cause)
            return None
        if isinstance(cause, Stopped):
            log.warning("a worker was told to stop, and did; another one is asked for")
            self._lose(member, "stopped")
            self._queue.give_back(task)
            return None
        self._suspicion.failed(member.node)
        member.failed_in_a_row += 1
        kind = type(cause).__name__
        if not isinstance(error, RayTaskError):  # it died, alone or with its node
            cause, kind = ShardError(f"its worker died: {' '.join(str(cause).split())[:500]}"), "WorkerDied"
            self._lose(member, "died")
        elif member.failed_in_a_row < _FAILED_AT_MOST and isinstance(error.cause, VidtokError):
            self._idle.append(member)
        else:
            # What was not foreseen, or comes again, may be its own fault; one that begins anew looks at itself first.
            self._lose(member, "replaced")
        self._tally.attempts_failed[kind] += 1
        return self._queue.failed(task, cause)

    def _count(self) -> Counters:
        members = self._members
        for member in members:
            member.take_answer()
            if member.asked is None and member.is_started:
                member.asked = member.actor.counters.remote()
        self._end_hung()
        return sum((member.counters for member in members), self._before)

    def _end_hung(self) -> None:
        """Ends workers of which nothing more comes, whatever they wait for; that is found as any death is."""
        if self._hung_seconds is None:
            return
        for member, task in self._running.values():
            if time.monotonic() - member.moved > self._hung_seconds:
                said, told = "%s: nothing came for %.0f s, and its worker is ended", {"shard": task.shard.shard_id}
                log.error(said, task.shard.path, self._hung_seconds, extra=told)
                member.moved = time.monotonic()
                ray.kill(member.actor)


def _resources(executor: ExecutorConfig) -> dict[str, float]:
    gpus = executor.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0  # type: ignore[no-untyped-call]
    return {"num_cpus": executor.cpus_per_worker, "num_gpus": gpus}


@contextmanager
def _session(executor: ExecutorConfig) -> Iterator[None]:
    if ray.is_initialized():
        adopt_logger("ray")
        yield
        return
    try:
        with keep_stop_on_sigterm():
            ray.init(address=executor.address, include_dashboard=None, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"executor.address: no Ray cluster answers at {executor.address or 'auto'}: {error}"
        ) from None
    adopt_logger("ray")
    try:
        yield
    finally:
        ray.shutdown()
