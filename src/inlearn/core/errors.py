"""The two ways in which a request can fail without a defect of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked cannot be done. The message names the key, the value and what was expected; exit status 2."""


class EnvironmentFault(RuntimeError):
    """The machine refused: a full disk, a read-only folder, a damaged file. Exit status 1.

    `state`: how it leaves a run that it befell.
    """

    state = "failed"


def unknown(what: str, given: str, known: Iterable[str], prefix: str = "") -> UserError:
    """The error for a name that does not exist: it says which names do, the nearest first."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, 1, 0.5)
    hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {what} '{prefix}{given}'; {hint}")
