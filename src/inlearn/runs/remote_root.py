"""A root of runs that lives in object storage: a URL, and the local folder in which its runs are worked on.

`.remote.json` in that folder says which URL it stands for, so that whoever is handed the folder finds the remote.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from inlearn.core.errors import UserError, unknown
from inlearn.core.files import read_json, write_json

REMOTE = ".remote.json"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+(.*))?")  # a Path has lost one slash or both


def open_root(text: str | Path, refresh: bool = True) -> Path:
    """The folder that stands for `text`: the path itself, or the working folder of a URL such as s3://bucket/lab.

    With `refresh` the small files of runs that changed at the URL are brought up to date, so the folder can be listed
    and queried. Raises `UserError` for what is neither, and `StorageFault` where the store cannot be read.
    """
    split = _URL.fullmatch(str(text))
    path = Path(text)
    if split is None:
        if path.exists() and not path.is_dir():
            raise UserError(f"--runs {path}: expected a folder, found a file")
        return path
    url = _normal(split[1], split[2] or "")
    root = _working_folder(url)
    unused = next(root.glob("*/config.json"), None) is None
    if url_of(root) is None or unused:  # a mistaken endpoint holds nothing against the right one
        write_json(root / REMOTE, {"url": url, "endpoint": _endpoint(url)})
    elif (kept := read_json(root / REMOTE)["endpoint"]) != _endpoint(url):
        raise UserError(
            f"{root} holds runs of {url} at {kept or 'its usual endpoint'}, not at {_endpoint(url) or 'that one'}; "
            "set INLEARN_CACHE to another folder"
        )
    if refresh:
        from inlearn.runs.remote_pull import refresh_root
        from inlearn.runs.remote_store import StorageFault

        try:
            refresh_root(root)
        except StorageFault as error:
            seen = next(root.glob("*/config.json"), None)
            raise StorageFault(f"{error}" + (f"; runs seen before are in {root}" if seen else "")) from None
    return root


def url_of(root: Path) -> str | None:
    """The URL that `root` stands for; None for an ordinary folder."""
    try:
        return read_json(root / REMOTE)["url"]
    except (FileNotFoundError, NotADirectoryError):
        return None


def shown(root: Path) -> str:
    """What to call `root` towards the user, and what `--runs` takes: its URL, or its path."""
    return url_of(root) or str(root)


def _normal(scheme: str, rest: str) -> str:
    from inlearn.runs.remote_store import SCHEMES

    scheme, place = scheme.lower(), "/".join(part for part in rest.split("/") if part)
    if scheme not in SCHEMES:
        raise unknown("storage", scheme, SCHEMES)
    if not place or ".." in place.split("/"):
        raise UserError(f"--runs {scheme}://{rest}: expected {scheme}://bucket/prefix")
    return f"{scheme}:///{place}" if scheme == "file" else f"{scheme}://{place}"


def _working_folder(url: str) -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inlearn"
    cache = Path(os.environ.get("INLEARN_CACHE") or usual).expanduser()
    scheme, _, place = url.partition("://")
    return (cache / scheme / place.strip("/")).absolute()


def _endpoint(url: str) -> str | None:
    """Where s3:// leads here: two services may each have a bucket of the same name."""
    if not url.startswith("s3"):
        return None
    from inlearn.runs.remote_credentials import s3_options

    return s3_options(os.environ)["config"].get("endpoint")
