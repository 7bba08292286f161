"""The same work in the calling process, one shard after another: to debug, and to compare with."""

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pipeline.errors import ErrorBudgetExceeded, Stopped, WorkerUnfit
from pipeline.executors.base import OnWork, ShardFailure, WorkOrder, failure_of, is_retryable
from pipeline.records import Shard
from pipeline.shard_table import ShardTable
from pipeline.stopping import check_stop

if TYPE_CHECKING:
    from pipeline.worker import ShardWorker

__all__ = ["InlineExecutor"]

log = logging.getLogger(__name__)


class InlineExecutor:
    """Works in this process."""

    def run(self, order: WorkOrder, shards: ShardTable, on_work: OnWork) -> Iterator[dict[str, Any] | ShardFailure]:
        """See Executor.run."""
        from pipeline.worker import ShardWorker  # with PyTorch, of which a driver of Ray's has none

        under_way: list[Shard] = []
        worker = ShardWorker(order, on_progress=lambda _: on_work(worker.counters, under_way))
        with closing(worker):
            for shard in shards:
                check_stop()
                under_way[:] = [shard]
                yield self._try(worker, shard, order.config.executor.max_attempts)

    def _try(self, worker: "ShardWorker", shard: Shard, max_attempts: int) -> dict[str, Any] | ShardFailure:
        errors: list[BaseException] = []
        for attempt in range(1, max_attempts + 1):
            try:
                return worker.tokenize(shard)
            except (ErrorBudgetExceeded, Stopped, WorkerUnfit):
                raise  # not the shard's fault
            except Exception as error:  # the shard's boundary: whatever happened, the others go on
                told = {"shard": shard.shard_id}
                log.debug("shard %s, attempt %d", shard.path, attempt, exc_info=True, extra=told)
                errors.append(error)
                if attempt == max_attempts or not is_retryable(error):
                    return failure_of(shard, errors)
                said = "shard %s: attempt %d of %d failed: %s"
                log.warning(said, shard.path, attempt, max_attempts, error, extra=told)
        raise AssertionError("max_attempts is at least 1")
