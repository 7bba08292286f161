"""What must reach no log, error, report or dataset: keys, passwords, and the queries of presigned links.

Every error of ours passes through `redact` when it is made, so that it may go anywhere; so do the log lines.
"""

import logging
import os
import re

__all__ = ["RedactingFormatter", "redact", "redact_url", "storable"]

# Of environment variables that hold a secret; values shorter than this are words that may stand anywhere.
_SECRET_NAME = re.compile(r"(KEY|KEY_ID|SECRET|TOKEN|PASSWORD|CONNECTION_STRING|SIGNATURE)$", re.IGNORECASE)
_SHORTEST_SECRET = 8

_RULES = [
    # user:password@ in a URL (abfs:// has its container there), and where the scheme was taken off.
    (re.compile(r"\b(?!abfss?:)([a-z][a-z0-9+.-]*://)[^\s/'\"]*@", re.IGNORECASE), r"\1"),
    (re.compile(r"(https?://)[^\s/@'\"]*:(?!\d+/)[^\s@'\"]*@", re.IGNORECASE), r"\1"),
    (re.compile(r"[\w/+-]+:[^\s:@'\"/]+@(?=\w)"), ""),
    # A query; what is no assignment may be the ? of a pattern.
    (re.compile(r"\?[^\s'\"<>?]*=[^\s'\"<>]*"), ""),
    (re.compile(r"%3F[^\s'\"<>]*%3D[^\s'\"<>]*", re.IGNORECASE), ""),  # the same, quoted
    (
        re.compile(r"\b(X-(?:Amz|Goog)-[\w-]+|Credential|Signature|sig|password|secret|token)=[^\s&'\",;]+", re.I),
        r"\1=...",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b"), "..."),
]


def redact(text: str) -> str:
    """`text` without what may be secret: in URLs, in signatures, and the values of this process's environment."""
    for rule, put in _RULES:
        text = rule.sub(put, text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "...")
    return text


def redact_url(url: str) -> str:
    """`url` without what may be secret; of a web address the whole query."""
    is_web = re.search(r"https?://", url, re.IGNORECASE)
    return redact(url.split("?", 1)[0] if is_web else url)


def storable(url: str) -> str:
    """`url` as a dataset may keep it: without a link's user and signature, and otherwise as it is, to be read again.

    Unlike what `redact` gives, it does not depend on the environment, and a path with a ? and a = stays a path.
    """
    if re.search(r"https?://", url, re.IGNORECASE):
        return re.sub(r"(?<=://)[^\s/]*@", "", url.split("?", 1)[0])
    return re.sub(r"\?(?=[^/]*\b(?:X-(?:Amz|Goog)-|Signature=|sig=)).*", "", url)


class RedactingFormatter(logging.Formatter):
    """Log lines, with their tracebacks, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return redact(super().format(record))
