"""Signals that ask a process to save and leave. Imports no torch: who only schedules runs is asked the same way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Interrupts:
    """Calls true once a signal has come; `numbers` says which, in their order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self) -> bool:
        return bool(self.numbers)

    def note(self, number: int, frame: Any) -> None:
        if self.numbers and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.numbers.append(number)


_listening: Interrupts | None = None


@contextlib.contextmanager
def interrupts(*more: int) -> Iterator[Interrupts]:
    """True once SIGINT, SIGTERM or a signal of `more` has come. A second SIGINT breaks off at once; the last
    checkpoint remains. Inside another `interrupts`, it is the same one: what came before the inner one counts too.
    """
    global _listening
    if _listening is not None:
        yield _listening
        return
    noted = Interrupts()
    try:
        old = {number: signal.signal(number, noted.note) for number in (signal.SIGINT, signal.SIGTERM, *more)}
    except ValueError:  # not the main thread: whoever owns the signals decides
        yield noted
        return
    _listening = noted
    try:
        yield noted
    finally:
        _listening = None
        for number, handler in old.items():
            signal.signal(number, handler)
