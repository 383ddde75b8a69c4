"""How a process leaves a run, in plain values. Imports no torch: engines' workers say it before they train."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Literal

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.lease import Held

State = Literal["finished", "interrupted", "failed", "refused", "busy"]


@dataclass(frozen=True)
class Ended:
    """How a run ended here: finished, interrupted or failed; `refused`: nothing was made, or what is there is another
    run's; `busy`: another live process holds it. `id` is empty where the request itself was refused."""

    id: str
    state: State
    reason: str = ""


def ended_by(id: str, error: BaseException) -> Ended:
    """What an exception says of a run. The traceback of an unforeseen one goes to stderr."""
    if isinstance(error, Held):
        return Ended(id, "busy", str(error))
    if isinstance(error, UserError):
        return Ended(id, "refused", str(error))
    if isinstance(error, EnvironmentFault):
        return Ended(id, error.state, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ended(id, "interrupted", "broken off")
    traceback.print_exception(error, file=sys.stderr)
    return Ended(id, "failed", f"{type(error).__name__}: {error}")
