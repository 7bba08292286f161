"""What an executor is, and what it says of a shard that failed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import CommitConflict, ConfigError, VidtokError
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.secrets import redact
from pipeline.worker import WorkOrder

__all__ = ["Executor", "OnWork", "ShardFailure", "failure_of", "is_retryable"]


OnWork = Callable[[Counters, Sequence[Shard]], None]


@dataclass(frozen=True, kw_only=True)
class ShardFailure:
    """A shard that was given up.

    Attributes:
        shard_id: which one.
        path: its tar.
        attempts: how often it was tried.
        error: class and message of the last error.
    """

    shard_id: str
    path: str
    attempts: int
    error: str


class Executor(Protocol):
    """Places shards on workers and tries them again; never changes what is done with one."""

    def run(
        self, order: WorkOrder, shards: Sequence[Shard], on_work: OnWork
    ) -> Iterator[dict[str, Any] | ShardFailure]:
        """Yields the commit of each shard, or its failure, in the order in which they end.

        Args:
            order: the job.
            shards: what is to do.
            on_work: called now and then with the work done so far by all workers, and the shards under way.

        Raises:
            ConfigError: no worker can start, as the job is.
        """
        ...


def failure_of(shard: Shard, attempts: int, error: BaseException) -> ShardFailure:
    """Describes an error for a person; one of ours by its message, any other by its class too."""
    said = str(error) if isinstance(error, VidtokError) else redact(f"{type(error).__name__}: {error}")
    return ShardFailure(shard_id=shard.shard_id, path=shard.path, attempts=attempts, error=said)


def is_retryable(error: BaseException) -> bool:
    """Whether trying a shard again may help."""
    return not isinstance(error, (CommitConflict, ConfigError))
