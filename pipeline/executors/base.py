"""What an executor is, and what it says of a shard that failed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.config import JobConfig
from pipeline.errors import CommitConflict, ConfigError, told
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.shard_table import ShardTable

__all__ = ["Executor", "OnWork", "ShardFailure", "WorkOrder", "failure_of", "is_retryable"]


OnWork = Callable[[Counters, Sequence[Shard]], None]


@dataclass(frozen=True, kw_only=True)
class WorkOrder:
    """What a worker needs to know of a job; small, and sent to each worker once.

    Attributes:
        config: the job.
        description: what dataset.json says.
        run_id: names the run in log records and metrics; empty where there is none.
    """

    config: JobConfig
    description: dict[str, Any]
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardFailure:
    """A shard that was given up.

    Attributes:
        shard_id: which one.
        path: its tar.
        size_bytes: its size.
        history: the error of each attempt, by its message, or class and message.
    """

    shard_id: str
    path: str
    size_bytes: int
    history: tuple[str, ...]

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        return len(self.history)

    @property
    def error(self) -> str:
        """The last error."""
        return self.history[-1]


class Executor(Protocol):
    """Places shards on workers and tries them again; never changes what is done with one."""

    def run(self, order: WorkOrder, shards: ShardTable, on_work: OnWork) -> Iterator[dict[str, Any] | ShardFailure]:
        """Yields the commit of each shard, or its failure, in the order in which they end.

        Args:
            order: the job.
            shards: what is to do.
            on_work: called now and then with the work done so far by all workers, and the shards under way.

        Raises:
            ConfigError: no worker can start, as the job is.
        """
        ...


def failure_of(shard: Shard, errors: Sequence[BaseException]) -> ShardFailure:
    """Describes the errors of all attempts for a person; one of ours by its message, any other by its class too."""
    history = tuple(map(told, errors))
    return ShardFailure(shard_id=shard.shard_id, path=shard.path, size_bytes=shard.size_bytes, history=history)


def is_retryable(error: BaseException) -> bool:
    """Whether trying a shard again may help."""
    return not isinstance(error, (CommitConflict, ConfigError))
