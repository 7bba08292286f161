"""The exceptions of the stores' libraries, told apart."""

import re
from collections.abc import Iterator

__all__ = ["STORE_FAULTS", "describe", "is_missing_bucket", "is_refused_condition", "redact_url"]


def _store_faults() -> tuple[type[BaseException], ...]:
    faults: list[type[BaseException]] = [OSError, TimeoutError]
    try:  # s3fs is an extra; where it is missing nothing can raise these.
        from aiohttp import ClientError as HttpError
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return tuple(faults)
    return (*faults, BotoCoreError, ClientError, HttpError)


STORE_FAULTS = _store_faults()


def is_refused_condition(error: BaseException | None) -> bool:
    """Whether a conditional write was refused because the name is taken (HTTP 412).

    s3fs turns the answer into FileExistsError for some servers and into OSError 22 for others, and keeps the
    original as the cause.
    """
    return any(
        isinstance(cause, FileExistsError) or _code(cause) in ("PreconditionFailed", "412") for cause in _causes(error)
    )


def is_missing_bucket(error: BaseException | None) -> bool:
    """Whether an object was not found because the whole bucket is not there, which no empty listing may hide."""
    return any(_code(cause) == "NoSuchBucket" for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def redact_url(url: str) -> str:
    """`url` without what may be secret: user information and the query string of a presigned link."""
    url = re.sub(r"(?<=://)[^/@]*@", "", url)
    return url.split("?", 1)[0] if re.search(r"https?://", url) else url  # elsewhere a `?` belongs to a pattern


def describe(error: BaseException, action: str, where: str) -> str:
    """One line for a person: what was asked, of which object, and what the store said, without secrets."""
    said = str(error) or type(error).__name__
    # A presigned link or a user:password@ in an answer must not reach a log.
    said = re.sub(r"(?<=://)[^/@\s]*@", "", re.sub(r"\?[^\s'\"]*", "", said))
    return f"cannot {action} {redact_url(where)}: {type(error).__name__}: {said}"
