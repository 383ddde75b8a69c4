"""Object storage by URL, through obstore: bounded retries, verified writes, and errors in one sentence.

Nothing here knows what a run is. A write counts once the store holds the very bytes: S3's ETag is the MD5 of what it
stored (of the parts' MD5s after a multipart upload), so the answer to the PUT itself proves it. Stores with other tags
(GCS, Azure, S3 under KMS keys) are found out by reading the first object back; from then on the size is compared, and
the transfer is guarded by the signed hash of each request.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from inlearn.core.errors import EnvironmentFault, UserError, unknown
from inlearn.core.files import machine_faults
from inlearn.runs.remote_credentials import s3_options
from inlearn.runs.remote_errors import first_line, sentence, status_code

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")
PATIENCE_SECONDS = 120.0  # for how long a failing request is tried again; INLEARN_STORAGE_PATIENCE
PROBE_SECONDS = 15.0  # for the first request of a process: a wrong endpoint should not be waited for
PART_BYTES = 8 << 20  # larger objects go in parts of this size, four at a time
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
T = TypeVar("T")


class StorageFault(EnvironmentFault):
    """The store could not be reached, refused, or lost what it was given."""


class Exists(Exception):
    """A conditional write found another version than it expected."""


@dataclass(frozen=True)
class Stored:
    """An object as a listing shows it. `modified` is in seconds since the epoch, by the store's clock."""

    key: str
    size: int
    tag: str
    modified: float


class RemoteStore:
    """The objects below `url`; keys are relative to it.

    Requests that fail for a while (5xx, time-outs, broken connections) are repeated with exponential back-off and
    jitter for `patience` seconds; those that cannot succeed (no such bucket, denied, expired) raise at once.
    """

    def __init__(self, url: str, patience: float | None = None, part_bytes: int = PART_BYTES) -> None:
        self.url = url.rstrip("/")
        self.patience = _patience() if patience is None else patience
        self.part_bytes = part_bytes
        self._tags_are_md5 = True
        self._guard: Callable[[], None] = lambda: None
        self._obstore, self._store = _connect(self.url, self.patience)

    def guarded(self, guard: Callable[[], None]) -> RemoteStore:
        """The same store, with `guard` asked before every request and every repetition; what it raises ends it."""
        other = copy.copy(self)
        other._guard = guard
        return other

    # ------------------------------------------------------------ writing

    def put(self, key: str, content: bytes, patience: float | None = None) -> str:
        """Write a small object, or replace it; its tag."""
        expected = {hashlib.md5(content, usedforsecurity=False).hexdigest()}

        def once() -> str:
            tag = self._obstore.put(self._store, key, content, use_multipart=False)["e_tag"]
            return self._verified(key, tag, expected, len(content), lambda: hashlib.sha256(content))

        return self._patiently(f"write {key}", once, patience)

    def put_file(self, key: str, path: Path, length: int | None = None) -> tuple[str, os.stat_result, int]:
        """Write the first `length` bytes of a file (all by default), in parts where it is large.

        Returns the object's tag, the file as it was when it was opened, and the bytes sent: the file may grow, or be
        replaced, meanwhile. Raises `FileNotFoundError` where it is gone.
        """
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            size = stat.st_size if length is None else min(length, stat.st_size)
            if size <= self.part_bytes:
                return self.put(key, file.read(size)), stat, size
            expected = {_multipart_tag(_pieces(file, size, self.part_bytes))}

            def once() -> str:
                pieces = _pieces(file, size, 1 << 20)
                _, store = _connect(self.url, self.patience, retries=2)
                answer = self._obstore.put(
                    store, key, pieces, chunk_size=self.part_bytes, max_concurrency=4, use_multipart=True
                )
                return self._verified(
                    key, answer["e_tag"], expected, size, lambda: _sha256(_pieces(file, size, 1 << 20))
                )

            return self._patiently(f"write {key}", once), stat, size

    def put_if(self, key: str, content: bytes, tag: str | None, patience: float | None = None) -> str:
        """Write only over the version `tag`, or only where nothing is (None); the new tag.

        Raises `Exists` where another version is there (after a repeated request it may be our own) or `tag` is gone,
        and `NotImplementedError` where the store cannot compare and write in one.
        """
        mode: Any = "create" if tag is None else {"e_tag": tag}
        try:
            return self._patiently(
                f"write {key}", lambda: self._obstore.put(self._store, key, content, mode=mode)["e_tag"] or "", patience
            )
        except FileNotFoundError:  # AWS answers 404 where others say that the condition does not hold
            raise Exists from None

    def delete(self, keys: Sequence[str], patience: float | None = None) -> None:
        """Remove objects, in this order; those that are not there are no error."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._patiently(f"delete {key}", lambda key=key: self._obstore.delete(self._store, key), patience)

    def _verified(self, key: str, tag: str | None, expected: set[str], size: int, sha256: Callable[[], Any]) -> str:
        if self._tags_are_md5 and (tag or "").strip('"') in expected:
            return tag or ""
        found = self._obstore.head(self._store, key)
        if found["size"] != size:
            raise StorageFault(f"it holds {found['size']} bytes of {key} instead of {size}")
        if self._tags_are_md5:
            if _sha256(self._obstore.get(self._store, key).stream()).digest() != sha256().digest():
                raise StorageFault(f"it holds other bytes of {key} than were sent")
            self._tags_are_md5 = False
        return found["e_tag"] or ""

    # ------------------------------------------------------------ reading

    def get(self, key: str) -> tuple[bytes, str]:
        """Content and tag of an object; `FileNotFoundError` where there is none."""

        def once() -> tuple[bytes, str]:
            answer = self._obstore.get(self._store, key)
            return bytes(answer.bytes()), answer.meta["e_tag"] or ""

        return self._patiently(f"read {key}", once)

    def fetch(self, key: str, path: Path) -> str:
        """Read an object into the file `path`, piece by piece; its tag. Call with a path aside of where it shall be."""

        def once() -> str:
            answer = self._obstore.get(self._store, key)
            meta = answer.meta
            with machine_faults(path), path.open("wb") as file:
                for piece in answer.stream():
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if path.stat().st_size != meta["size"]:
                raise StorageFault(f"it sent {path.stat().st_size} of {meta['size']} bytes of {key}")
            return meta["e_tag"] or ""

        return self._patiently(f"read {key}", once)

    def head(self, key: str) -> Stored:
        return self._patiently(f"look at {key}", lambda: _stored(self._obstore.head(self._store, key)))

    def list(self, under: str | None = None, patience: float | None = None) -> list[Stored]:
        """Every object below `under`, page after page, however many."""

        def once() -> list[Stored]:
            pages = self._obstore.list(self._store, under, chunk_size=1000)
            return [_stored(entry) for page in pages for entry in page]

        return self._patiently("list it", once, patience)

    # ------------------------------------------------------------ patience

    def _patiently(self, what: str, request: Callable[[], T], patience: float | None = None) -> T:
        limit = time.monotonic() + (self.patience if patience is None else min(patience, self.patience))
        pause = FIRST_PAUSE
        while True:
            self._guard()
            try:
                return request()
            except (FileNotFoundError, self._obstore.exceptions.BaseError, StorageFault) as error:
                problem = self._problem(error)
                if problem is None or time.monotonic() + pause > limit:
                    raise StorageFault(f"{self.url}: cannot {what}: {problem or sentence(error)}") from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _problem(self, error: Exception) -> str | None:
        """What to say if it goes on failing; None where trying again is useless. What callers handle is raised."""
        kinds, text = self._obstore.exceptions, str(error)
        if isinstance(error, (kinds.AlreadyExistsError, kinds.PreconditionError)):
            raise Exists from None
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
            raise error
        if isinstance(error, StorageFault):
            return text
        status = status_code(text)
        final = status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429)
        if final or type(error) is not kinds.GenericError or "169.254." in text:
            return None
        return sentence(error)


# ---------------------------------------------------------------- connecting


def _patience() -> float:
    text = os.environ.get("INLEARN_STORAGE_PATIENCE", str(PATIENCE_SECONDS))
    try:
        return max(0.0, float(text))
    except ValueError:
        raise UserError(f"INLEARN_STORAGE_PATIENCE = {text}: expected seconds") from None


def _connect(url: str, patience: float, retries: int = 0) -> tuple[Any, Any]:
    """The obstore module and a store at `url`. Its own `retries` ask no guard: they are for parts of a large object."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise unknown("storage", scheme, SCHEMES)
    try:
        import obstore
        from obstore.store import from_url
    except ImportError:
        raise UserError(f"--runs {url}: object storage needs obstore: pip install 'inlearn[s3]'") from None
    options: dict[str, Any] = {"mkdir": True} if scheme == "file" else _network(patience, retries)
    if scheme in ("s3", "s3a"):
        options = _merged(options, s3_options(os.environ))
    try:
        return obstore, from_url(url, **options)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise UserError(f"--runs {url}: {first_line(error)}") from None


def _network(patience: float, retries: int) -> dict[str, Any]:
    request = timedelta(seconds=max(1.0, min(60.0, patience / 4)))  # one that hangs leaves time for another
    return {
        "client_options": {"timeout": request, "connect_timeout": min(request, timedelta(seconds=10))},
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": request,
            "backoff": {"max_backoff": timedelta(seconds=2)},
        },
    }


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for key, value in other.items():
        result[key] = {**result[key], **value} if isinstance(value, dict) and key in result else value
    return result


# ---------------------------------------------------------------- bytes


def _stored(entry: Mapping[str, Any]) -> Stored:
    return Stored(entry["path"], entry["size"], entry["e_tag"] or "", entry["last_modified"].timestamp())


def _pieces(file: BinaryIO, length: int, size: int) -> Iterator[bytes]:
    """The first `length` bytes of an open file in pieces of `size`."""
    offset = 0
    while offset < length and (piece := os.pread(file.fileno(), min(size, length - offset), offset)):
        offset += len(piece)
        yield piece


def _sha256(pieces: Iterator[Any]) -> Any:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest


def _multipart_tag(parts: Iterator[bytes]) -> str:
    """S3's ETag after a multipart upload: the MD5 of the parts' MD5s, and how many there were."""
    digests = [hashlib.md5(part, usedforsecurity=False).digest() for part in parts]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
