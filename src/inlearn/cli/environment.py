"""Settings of this machine (keys of W&B and object storage, the runs folder) from a file `.env`."""

from __future__ import annotations

from pathlib import Path


def load_environment() -> None:
    """Set what the nearest `.env` says and the environment does not: a variable that is set already wins.

    It is looked for in the current folder and those above, up to the first that holds `.git`; where none does, up to
    the home folder; elsewhere in the current folder alone.
    """
    file = next((folder / ".env" for folder in _places(Path.cwd(), Path.home()) if (folder / ".env").is_file()), None)
    if file is None:
        return
    from dotenv import load_dotenv

    try:
        load_dotenv(file, override=False)
    except UnicodeDecodeError:
        from inlearn.core.errors import UserError

        raise UserError(f"{file} is not UTF-8 text; expected lines KEY=VALUE") from None


def _places(here: Path, home: Path) -> list[Path]:
    every = [here, *here.parents]
    checkout = next((folder for folder in every if (folder / ".git").exists()), None)
    top = checkout or (home if home in every else here)
    return every[: every.index(top) + 1]
