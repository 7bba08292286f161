"""Shards on Ray actors: each pinned to its GPUs or cores, each doing one shard at a time.

Only shard descriptions, commits and counts cross Ray; frames never leave the worker's process.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.config import ExecutorConfig
from pipeline.errors import ConfigError, ShardError, VidtokError, WorkerUnfit
from pipeline.executors.base import OnWork, ShardFailure, failure_of, is_retryable
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.worker import ShardWorker, WorkOrder

__all__ = ["RayExecutor"]

_TICK_SECONDS = 0.5
_SILENCE_SECONDS = 30.0
# How often a worker may die while it loads.
_STARTS = 3

log = logging.getLogger(__name__)


class ShardActor:
    """A ShardWorker in a process of its own. Ray starts it anew where that dies, which is why it loads lazily."""

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._worker: ShardWorker | None = None

    # Tried again so that it waits for an actor that Ray starts anew, where any other call fails at once.
    @ray.method(max_task_retries=_STARTS)
    def start(self) -> None:
        self._load()

    def tokenize(self, shard: Shard) -> tuple[dict[str, Any], Counters]:
        worker = self._load()
        return worker.tokenize(shard), worker.counters

    @ray.method(concurrency_group="watch")
    def counters(self) -> Counters:
        return self._worker.counters if self._worker else Counters()

    def _load(self) -> ShardWorker:
        if self._worker is None:
            self._worker = ShardWorker(self._order)
        return self._worker


@dataclass(eq=False)
class _Member:
    """One actor, as the driver sees it."""

    actor: Any
    is_started: bool = False
    failed_starts: int = 0  # since it last started
    asked: Any = None  # the pending answer to the last question for its counters
    counters: Counters = field(default_factory=Counters)
    before: Counters = field(default_factory=Counters)  # of the processes that died

    def take_answer(self) -> None:
        if self.asked is None or not ray.wait([self.asked], timeout=0)[0]:
            return
        answer, self.asked = self.asked, None
        try:
            self.counters = ray.get(answer)
        except RayError:
            self.was_lost()

    def was_lost(self) -> None:
        self.is_started = False
        self.before += self.counters
        self.counters = Counters()

    def total(self) -> Counters:
        return self.before + self.counters


@dataclass
class _Task:
    """One shard, and what went wrong with it so far."""

    shard: Shard
    errors: list[BaseException] = field(default_factory=list)


class RayExecutor:
    """Works on the cluster that Ray finds, or on a local one that ends with the run."""

    def run(
        self, order: WorkOrder, shards: Sequence[Shard], on_work: OnWork
    ) -> Iterator[dict[str, Any] | ShardFailure]:
        """See Executor.run."""
        with _session(order.config.executor):
            crew = _Crew(order, min(order.config.executor.num_workers, len(shards)))
            try:
                yield from crew.work(shards, on_work)
            finally:
                crew.dismiss()


class _Crew:
    """The actors of a job: shards go to whichever is ready first; those that come late join in."""

    def __init__(self, order: WorkOrder, num_workers: int) -> None:
        self._max_attempts = order.config.executor.max_attempts
        resources = _resources(order.config.executor)
        decorate: Any = ray.remote(concurrency_groups={"watch": 1})  # type: ignore[call-overload]  # not in its types
        remote = decorate(ShardActor).options(max_restarts=-1, **resources)
        # By value: an actor that starts anew on another node must not depend on an object of a node that is gone.
        self._members = [_Member(remote.remote(order)) for _ in range(num_workers)]
        self._starting = {member.actor.start.remote(): member for member in self._members}
        self._idle: list[_Member] = []
        self._running: dict[Any, tuple[_Member, _Task]] = {}
        self._queue: deque[_Task] = deque()
        self._wanted = f"{num_workers} workers of {resources}"

    def work(self, shards: Sequence[Shard], on_work: OnWork) -> Iterator[dict[str, Any] | ShardFailure]:
        self._queue.extend(_Task(shard) for shard in shards)
        heard = time.monotonic()
        while self._queue or self._running:
            while self._queue and self._idle:
                task = self._queue.popleft()
                member = self._idle.pop()
                self._running[member.actor.tokenize.remote(task.shard)] = (member, task)
            ready, _ = ray.wait([*self._running, *self._starting], timeout=_TICK_SECONDS)
            for answer in ready:
                if answer in self._starting:
                    self._started(answer)
                elif (outcome := self._ended(answer)) is not None:
                    yield outcome
            if ready or self._running:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_SECONDS:
                heard = time.monotonic()
                log.warning("no worker is ready yet: %s wanted, free are %s", self._wanted, ray.available_resources())  # type: ignore[no-untyped-call]
            on_work(self._count(), [task.shard for _, task in self._running.values()])

    def dismiss(self) -> None:
        for member in self._members:
            ray.kill(member.actor)

    def _started(self, answer: Any) -> None:
        member = self._starting.pop(answer)
        try:
            ray.get(answer)
        except RayError as error:
            cause = _cause(error)
            if isinstance(cause, WorkerUnfit):
                self._leave_out(member, cause)
                return
            if not is_retryable(cause):
                raise cause from None
            member.failed_starts += 1
            if member.failed_starts < self._max_attempts:
                self._starting[member.actor.start.remote()] = member
            else:
                self._leave_out(member, ShardError(f"a worker could not start: {cause}"))
        else:
            member.is_started, member.failed_starts = True, 0
            self._idle.append(member)

    def _leave_out(self, member: _Member, cause: VidtokError) -> None:
        """Goes on without a worker; without any, it raises why."""
        ray.kill(member.actor)
        member.was_lost()
        if not (self._starting or self._idle or self._running):
            raise cause
        log.error("a worker is left out: %s", cause)

    def _ended(self, answer: Any) -> dict[str, Any] | ShardFailure | None:
        member, task = self._running.pop(answer)
        try:
            commit: dict[str, Any]
            commit, member.counters = ray.get(answer)
            member.asked = None  # an answer on its way would be older
            self._idle.append(member)
            return commit
        except RayError as error:
            cause = _cause(error)
        if isinstance(cause, WorkerUnfit):
            self._queue.appendleft(task)  # which was not at fault
            self._leave_out(member, cause)
            return None
        if not isinstance(cause, RayActorError):
            self._idle.append(member)
        else:
            member.was_lost()
            # No other shard is sent to it before it is there again.
            self._starting[member.actor.start.remote()] = member
            cause = ShardError(f"its worker died: {' '.join(str(cause).split())[:500]}")
        task.errors.append(cause)
        attempt = len(task.errors)
        if attempt < self._max_attempts and is_retryable(cause):
            log.warning("shard %s: attempt %d of %d failed: %s", task.shard.path, attempt, self._max_attempts, cause)
            self._queue.append(task)
            return None
        return failure_of(task.shard, task.errors)

    def _count(self) -> Counters:
        for member in self._members:
            member.take_answer()
            if member.asked is None and member.is_started:
                member.asked = member.actor.counters.remote()
        return sum((member.total() for member in self._members), Counters())


def _cause(error: RayError) -> BaseException:
    """The worker's own exception, where the error carries one."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, VidtokError) else ShardError(str(cause))
    return error


def _resources(executor: ExecutorConfig) -> dict[str, float]:
    gpus = executor.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0  # type: ignore[no-untyped-call]
    return {"num_cpus": executor.cpus_per_worker, "num_gpus": gpus}


@contextmanager
def _session(executor: ExecutorConfig) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=executor.address, include_dashboard=None, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"executor.address: no Ray cluster answers at {executor.address or 'auto'}: {error}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
