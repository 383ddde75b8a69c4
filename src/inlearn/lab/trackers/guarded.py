"""A tracker that fails costs one warning, never the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlearn.lab.mirrors import Mirror
    from inlearn.training.loop import Outcome


class Guarded:
    """A `Mirror` around the tracker that `make` returns. After its first failure the tracker hears nothing more.

    The tracker is made when the first line comes, so that a run that fails before it trains leaves none behind.
    """

    def __init__(self, name: str, make: Callable[[], Mirror], warn: Callable[..., None]):
        self.name, self.warn = name, warn
        self._make: Callable[[], Mirror] | None = make
        self._tracker: Mirror | None = None

    def line(self, line: Mapping[str, Any]) -> None:
        if self._make is not None:
            make, self._make = self._make, None
            self._guard(lambda: setattr(self, "_tracker", make()))
        self._guard(lambda: self._tracker and self._tracker.line(line))

    def checkpoint(self, step: int) -> None:
        self._guard(lambda: self._tracker and self._tracker.checkpoint(step))

    def end(self, outcome: Outcome) -> None:
        self._guard(lambda: self._tracker and self._tracker.end(outcome))

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever a third party raises
            self._tracker = None
            said = str(error) or type(error).__name__
            self.warn("%s hears no more of this run, which goes on without it: %s", self.name, said)
