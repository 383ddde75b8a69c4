"""Object storage's errors in one sentence each, from what obstore and the services say."""

from __future__ import annotations

import re

KNOWN_CAUSES = (  # the first that fits
    (r"ExpiredToken|TokenRefreshRequired|token.{0,20}expired", "the credentials have expired; renew them"),
    (r"NoSuchBucket", "there is no such bucket"),
    (r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken", "the credentials are not valid there"),
    (r"169\.254\.", "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
    (r"code: 40[13]|Unauthenticated|PermissionDenied", "access denied; do the credentials allow this?"),
    (r"Connection refused", "the connection is refused"),
    (r"dns error|failed to lookup", "its host name is not known"),
    (r"timed ?out|TimedOut|Timeout", "it does not answer in time"),
)


def sentence(error: Exception) -> str:
    """Why a request failed, in words a user can act on."""
    text = str(error).replace("retry_timeout", "")  # a setting of the client's, in every message
    for pattern, words in KNOWN_CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return words
    status, message = status_code(text), re.search(r"<Message>(.*?)</Message>", text)
    if status is not None:
        return f"it answers with status {status}" + (f" ({message[1]})" if message else "")
    return first_line(error)


def status_code(text: str) -> int | None:
    """The HTTP status in an error's text, if it holds one."""
    found = re.search(r"status code: (\d{3})", text)
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """An error's text without the debug output that follows, or its type where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
