"""What can go wrong, as one tree: the class says what the caller does about it."""

from collections.abc import Iterable

from pipeline.secrets import redact

__all__ = [
    "CommitConflict",
    "CommitStateUnknown",
    "ConfigError",
    "ErrorBudgetExceeded",
    "NotWhole",
    "SampleError",
    "ShardError",
    "Stopped",
    "StorageError",
    "TrainingFailed",
    "VidtokError",
    "WorkerUnfit",
    "told",
]


class VidtokError(Exception):
    """The base of every error that this project raises on purpose; what it says holds no secret."""

    def __init__(self, *said: object) -> None:
        super().__init__(*(redact(word) if isinstance(word, str) else word for word in said))


class ConfigError(VidtokError):
    """The job as written cannot run. Nothing was done; the person mends it.

    Attributes:
        problems: every problem found, one line each, so that all can be mended at once.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [redact(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SampleError(VidtokError):
    """One video gives no rows. It is recorded as a reject and the shard goes on.

    Attributes:
        stage: where it failed: read, probe, decode, clip or encode.
        error: the reject's class, such as `unreadable`, `truncated`, `no_video`, `too_short`, `not_finite`.
        message: what was found and what was expected.
        attempts: how often it was tried.
    """

    def __init__(self, stage: str, error: str, message: str, *, attempts: int = 1) -> None:
        self.attempts = attempts
        self.stage = stage
        self.error = error
        self.message = redact(message)
        super().__init__(stage, error, message)

    def __str__(self) -> str:
        return f"{self.error} ({self.stage}): {self.message}"


class ShardError(VidtokError):
    """One shard cannot be done now. It is tried again, then set aside; the job goes on."""


class StorageError(VidtokError):
    """The store did not do what was asked of it. The shard is tried again."""


class NotWhole(StorageError):
    """What was to be read is not there, or ends before: asking again changes nothing."""


class CommitConflict(VidtokError):
    """Something else stands where our result belongs, under the same fingerprint. A person has to look."""


class CommitStateUnknown(StorageError):
    """A write was sent and no answer came. The shard is tried again, which begins with reading what stands there."""


class ErrorBudgetExceeded(VidtokError):
    """So many videos were rejected that the job itself must be wrong: it stops, and a person looks."""


class WorkerUnfit(VidtokError):
    """This worker does not compute what it should. It is taken out before it writes; others do its shards."""


class TrainingFailed(VidtokError):
    """Workers of a training failed as often as they may. Its last saved state stands, and the same command goes on."""


class Stopped(VidtokError):
    """This process was told to stop, and did so where nothing that it had finished is lost."""


def told(error: BaseException) -> str:
    """An error for a person: one of ours by its message, any other by its class too; without secrets."""
    return str(error) if isinstance(error, VidtokError) else redact(f"{type(error).__name__}: {error}")
