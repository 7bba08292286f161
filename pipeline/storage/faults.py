"""The exceptions of the stores' libraries, told apart."""

import errno
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from pipeline.secrets import redact, redact_url

__all__ = [
    "ShortRead",
    "describe",
    "is_absent",
    "is_outcome_unknown",
    "is_refused_condition",
    "is_transient",
    "store_faults",
]


class ShortRead(OSError):
    """A body was shorter than the store said; an answer cut off, not the end of the object."""


# Classes by module, of libraries that may not be installed. A library that nobody imported has raised nothing.
_FAULTS = {
    "aiohttp": ["ClientError"],
    "azure.core.exceptions": ["AzureError"],
    "botocore.exceptions": ["BotoCoreError", "ClientError"],
    "gcsfs.retry": ["ChecksumError", "HttpError"],
    "google.api_core.exceptions": ["GoogleAPIError"],
    "google.auth.exceptions": ["GoogleAuthError"],
    # Of Hugging Face's: what its HTTP library raises (the one of that version), and what it says of an odd URL.
    "httpx": ["HTTPError"],
    "httpx2": ["HTTPError"],
    "huggingface_hub.errors": ["HFValidationError", "HfUriError"],
}
# A body cut off may come out as XML that ends early, or as a hash that does not match.
_LOST_CONNECTIONS = {
    "aiohttp": ["ClientConnectionError", "ClientPayloadError"],
    "azure.core.exceptions": ["IncompleteReadError", "ServiceRequestError", "ServiceResponseError"],
    "botocore.exceptions": [
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "FlexibleChecksumError",
        "HTTPClientError",
        "IncompleteReadError",
        "ResponseStreamingError",
    ],
    "botocore.parsers": ["ResponseParserError"],
    "gcsfs.retry": ["ChecksumError"],
    "google.auth.exceptions": ["TransportError"],
    "httpx": ["TransportError"],
    "httpx2": ["TransportError"],
    "requests.exceptions": ["ChunkedEncodingError", "ConnectionError", "Timeout"],  # of Google's token service
}
_OFFLINE = {"huggingface_hub.errors": ["OfflineModeIsEnabled"]}  # a ConnectionError, but on purpose (HF_HUB_OFFLINE)
# Local and network file systems: a moment's lack, or a mount whose server is away.
_TRANSIENT_ERRNOS = {errno.EAGAIN, errno.EHOSTUNREACH, errno.EMFILE, errno.ENETUNREACH, errno.ENFILE, errno.ESTALE}
_NEVER_CONNECTED = {
    "ClientConnectorError",
    "ConnectionRefusedError",
    "EndpointConnectionError",
    "ServiceRequestError",
}


def _imported(classes: Mapping[str, Iterable[str]]) -> tuple[type[BaseException], ...]:
    loaded = {name: sys.modules[name] for name in classes if name in sys.modules}
    found = (getattr(module, name, None) for module_name, module in loaded.items() for name in classes[module_name])
    return tuple(kind for kind in found if kind is not None)


def store_faults() -> tuple[type[BaseException], ...]:
    """What the libraries raise where a store fails; for an `except`, which asks when an error has come."""
    # NotImplementedError: what a library raises for a condition that its store does not know.
    return (OSError, TimeoutError, NotImplementedError, *_imported(_FAULTS))


_TRANSIENT_STATUSES = {408, 425, 429, *range(500, 600)} - {501}  # not implemented, nor will it be in a moment
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",  # S3: another conditional write of that name was under way
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
    *map(str, _TRANSIENT_STATUSES),
}


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: throttling, resets, timeouts, bodies cut off."""
    lost: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError, ShortRead, *_imported(_LOST_CONNECTIONS))
    if isinstance(error, _imported(_OFFLINE)):
        return False
    return any(
        isinstance(cause, lost)
        or (isinstance(cause, OSError) and cause.errno in _TRANSIENT_ERRNOS)
        or _code(cause) in _TRANSIENT_CODES
        or _status(cause) in _TRANSIENT_STATUSES
        for cause in _causes(error)
    )


def is_outcome_unknown(error: BaseException) -> bool:
    """Whether a write that ended so may have taken effect all the same."""
    return is_transient(error) and not any(type(cause).__name__ in _NEVER_CONNECTED for cause in _causes(error))


def is_refused_condition(error: BaseException | None) -> bool:
    """Whether a conditional write was refused because the name is taken (HTTP 412).

    s3fs turns the answer into FileExistsError for some servers and into OSError 22 for others, and keeps the
    original as the cause.
    """
    return any(
        isinstance(cause, FileExistsError) or _code(cause) in ("PreconditionFailed", "412") for cause in _causes(error)
    )


def is_absent(error: BaseException) -> bool:
    """Whether an object is not there, in a bucket that is."""
    # No empty listing may hide that the whole bucket is missing.
    return (
        isinstance(error, FileNotFoundError)
        and _web_failure(error) is None
        and not any(_code(cause) == "NoSuchBucket" for cause in _causes(error))
    )


def _web_failure(error: BaseException) -> BaseException | None:
    """What fsspec's file system of the web hides behind FileNotFoundError: any answer, or none, but for 404 and 410.

    Hugging Face's hides there what is shown to others only.
    """
    hiding = {"aiohttp": ["ClientError"], "huggingface_hub.errors": ["GatedRepoError"]}
    kinds: tuple[type[BaseException], ...] = (TimeoutError, *_imported(hiding))
    hidden = _causes(error.__cause__) if isinstance(error, FileNotFoundError) else ()
    return next((cause for cause in hidden if isinstance(cause, kinds) and _status(cause) not in (404, 410)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _status(error: BaseException) -> int | None:
    """The HTTP status as S3's library has it, or those of HTTP, Google, Azure and Hugging Face."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        names = ("status", "status_code", "code")
        values = (getattr(holder, name, None) for holder in (error, response) for name in names)
        status = next((value for value in values if isinstance(value, int)), None)
    return status if isinstance(status, int) else None


def describe(error: BaseException, action: str, where: str) -> str:
    """One line for a person: what was asked, of which object, and what the store said, without secrets."""
    error = _web_failure(error) or error
    # What follows a ? in an answer is part of a link.
    said = redact(re.sub(r"\?[^\s'\"]*", "", " ".join(str(error).split()) or type(error).__name__))
    if type(error).__name__ == "NoCredentialsError":
        said += " (they come from the environment or a profile; a public bucket needs anon: true)"
    return f"cannot {action} {redact_url(where)}: {type(error).__name__}: {said}"
