"""One worker on Ray: the actor, and what the driver knows of it."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import ShardError, VidtokError
from pipeline.executors.base import WorkOrder
from pipeline.executors.ray_metrics import RunMetrics
from pipeline.logs import LogSettings, adopt_logger, identify, set_up_logs
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.stopping import check_stop, stop_on_sigterm

if TYPE_CHECKING:
    from pipeline.worker import ShardWorker

__all__ = ["Member", "ShardActor", "cause_of"]


class ShardActor:
    """A ShardWorker in a process of its own."""

    def __init__(self, order: WorkOrder, logs: LogSettings) -> None:
        stop_on_sigterm()  # here, which is the main thread
        set_up_logs(logs)
        adopt_logger("ray")
        identify(run=order.run_id, worker=ray.get_runtime_context().get_worker_id())  # as metrics name it
        self._order = order
        self._metrics = RunMetrics(order)
        self._worker: ShardWorker | None = None

    def start(self) -> str:
        """Loads the tokenizer; returns the node's id."""
        from pipeline.worker import ShardWorker  # with PyTorch, of which the driver has none

        self._worker = ShardWorker(self._order)
        return str(ray.get_runtime_context().get_node_id())

    def tokenize(self, shard: Shard) -> tuple[dict[str, Any], Counters]:
        """Does one shard; returns its commit, and the work done so far."""
        check_stop()
        assert self._worker is not None, "start comes first"
        try:
            return self._worker.tokenize(shard), self._worker.counters
        finally:
            self._count()  # before it may be let go

    @ray.method(concurrency_group="watch")
    def counters(self) -> Counters:
        """The work done so far, beside the shard that is under way."""
        return self._count()

    def _count(self) -> Counters:
        """The work done so far, of which metrics are told."""
        if self._worker is None:
            return Counters()
        counters = self._worker.counters
        self._metrics.work(counters, self._worker.work.queue_bytes())
        return counters


@dataclass(eq=False)
class Member:
    """One actor, as the driver sees it."""

    actor: Any
    is_started: bool = False
    node: str = ""
    failed_in_a_row: int = 0  # shards
    moved: float = 0.0  # when its counters last did, or it got a shard
    asked: Any = None  # the pending answer to the last question for its counters
    counters: Counters = field(default_factory=Counters)

    def take_answer(self) -> None:
        """Takes the answer to the last question, where it came."""
        if self.asked is None or not ray.wait([self.asked], timeout=0)[0]:
            return
        answer, self.asked = self.asked, None
        with contextlib.suppress(RayError):  # its death is found where its work is waited for
            counters = ray.get(answer)
            if counters != self.counters:
                self.counters, self.moved = counters, time.monotonic()


def cause_of(error: RayError) -> BaseException:
    """The worker's own exception, where the error carries one."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, VidtokError) else ShardError(f"{type(cause).__name__}: {cause}")
    return error
