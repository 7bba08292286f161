"""The shards that wait for a worker, and what went wrong with each so far."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.executors.base import ShardFailure, failure_of, is_retryable
from pipeline.records import Shard

__all__ = ["ShardQueue", "ShardTask"]

log = logging.getLogger(__name__)


@dataclass
class ShardTask:
    """One shard, and the error of each attempt."""

    shard: Shard
    errors: list[BaseException] = field(default_factory=list)


class ShardQueue:
    """Gives out shards in their order; its length is how many wait."""

    def __init__(self, shards: Sequence[Shard], *, max_attempts: int, wait_for: int) -> None:
        """Nothing is made of a shard before its turn.

        Args:
            shards: what is to do.
            max_attempts: how often each is tried.
            wait_for: so many that failed are held back before they come again, if there are others: time passes,
                and yet it is soon known where everything fails.
        """
        self._new, self._num_new = iter(shards), len(shards)
        self._first: deque[ShardTask] = deque()  # given back unharmed
        self._again: deque[ShardTask] = deque()
        self._max_attempts = max_attempts
        self._wait_for = wait_for

    def __len__(self) -> int:
        return len(self._first) + self._num_new + len(self._again)

    def next(self) -> ShardTask:
        """The next one; there must be one."""
        if self._first or not self._num_new or len(self._again) >= self._wait_for:
            return (self._first or self._again).popleft()
        self._num_new -= 1
        return ShardTask(next(self._new))

    def give_back(self, task: ShardTask) -> None:
        """Takes back one that was not at fault."""
        self._first.append(task)

    def failed(self, task: ShardTask, error: BaseException) -> ShardFailure | None:
        """Takes back one that failed, to be tried again; its failure where that is over."""
        task.errors.append(error)
        attempt = len(task.errors)
        if attempt == self._max_attempts or not is_retryable(error):
            return failure_of(task.shard, task.errors)
        said, told = "shard %s: attempt %d of %d failed: %s", {"shard": task.shard.shard_id}
        log.warning(said, task.shard.path, attempt, self._max_attempts, error, extra=told)
        self._again.append(task)
        return None
