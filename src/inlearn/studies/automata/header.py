"""What a file of rows says of itself before its numbers. No torch here: a plan of runs asks for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from inlearn.core.errors import UserError

FORMAT = "inlearn automata rows 1"
LONGEST = 1 << 20  # bytes of a header


@dataclass(frozen=True)
class Header:
    """splits: rows for training, validation and test, in this order. fingerprint: sha256 of the rows.

    made_of: hash of the configuration that they were drawn from; empty for imported ones.
    """

    splits: tuple[int, int, int]
    fingerprint: str
    made_of: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        splits = ",".join(map(str, self.splits))
        return {"format": FORMAT, "splits": splits, "fingerprint": self.fingerprint, "made_of": self.made_of}


def read_header(path: str | Path) -> Header:
    """Of a file that `prepare` or `import` wrote (safetensors). Raises `UserError` for any other file."""
    refusal = f"{path} is no file of automata rows; expected one that `inlearn import automata FILE --out X` wrote"
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(length)) if length <= LONGEST else {}
    except FileNotFoundError:
        raise UserError(f"data.path = {path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"data.path = {path} is a folder; expected a file") from None
    except (ValueError, RecursionError):
        raise UserError(refusal) from None
    said = content.get("__metadata__") if isinstance(content, dict) else None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise UserError(refusal)
    try:
        train, validation, test = map(int, said["splits"].split(","))
        return Header((train, validation, test), said["fingerprint"], said["made_of"])
    except (KeyError, ValueError, AttributeError):  # AttributeError: no text
        raise UserError(refusal) from None
