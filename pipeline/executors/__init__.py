"""Where shards are worked on: in this process, or by Ray actors. Placement only; the dataset is the same."""

from pipeline.executors.base import Executor, ShardFailure, WorkOrder, failure_of, is_retryable
from pipeline.executors.inline import InlineExecutor

__all__ = ["Executor", "InlineExecutor", "ShardFailure", "WorkOrder", "failure_of", "is_retryable"]
