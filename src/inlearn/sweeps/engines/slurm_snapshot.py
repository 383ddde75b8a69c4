"""What a job that waits for days will run: the code as it was when it was submitted, and the list of packages."""

from __future__ import annotations

import hashlib
import platform
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import inlearn
from inlearn.core.files import machine_faults, write_text


@dataclass(frozen=True)
class Snapshot:
    """`path` goes first on the jobs' PYTHONPATH. `studies`: where it keeps each of the users' own studies."""

    path: Path
    studies: Mapping[str, str]


def snapshot(folder: Path, studies: Iterable[str]) -> Snapshot:
    """Copy our package and users' own studies to `<folder>/code-<hash>`, once for the same content."""
    package = Path(inlearn.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    copies = {Path("inlearn") / path.relative_to(package): path.read_bytes() for path in files}
    places = {}
    for study in studies:
        text = Path(study).read_bytes()
        # Files of one name in several folders stay apart.
        places[study] = Path("own") / hashlib.sha256(text).hexdigest()[:12] / Path(study).name
        copies[places[study]] = text
    content = hashlib.sha256()
    for place, text in sorted(copies.items()):
        content.update(f"{place}\0{len(text)}\0".encode() + text)
    target = folder / f"code-{content.hexdigest()[:12]}"
    if not target.exists():
        _write(target, copies)
    return Snapshot(target, {study: str(target / place) for study, place in places.items()})


def _write(target: Path, copies: Mapping[Path, bytes]) -> None:
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.aside")
    with machine_faults(target):
        try:
            for place, text in copies.items():
                (aside / place).parent.mkdir(parents=True, exist_ok=True)
                (aside / place).write_bytes(text)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def environment(folder: Path) -> Path:
    """Write the installed packages to `<folder>/environment-<hash>.txt`, in the form that pip reads."""
    packages = {f"{package.name}=={package.version}" for package in metadata.distributions()}
    lines = [f"# Python {platform.python_version()} on {platform.platform()}", *sorted(packages, key=str.lower)]
    text = "\n".join(lines) + "\n"
    path = folder / f"environment-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    if not path.exists():
        write_text(path, text)
    return path
