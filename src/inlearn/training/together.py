"""The training loop of a stack: all members are updated at once, and each is looked after as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inlearn.training.loop import Course, Outcome
from inlearn.training.stack import Member, Stack

End = Callable[[Member, Outcome | Exception], None]
"""Told once of every member, as soon as it ends: how, or what went wrong with its own folder, sets or trackers."""


def train_together(stack: Stack, courses: Mapping[Member, Course], resumed: Mapping[Member, bool], end: End) -> None:
    """Train every member to its own end. One that ends, fails or is asked to leave goes; the others go on.

    What goes wrong with an update itself is raised: it befalls all.
    """
    going = list(stack.members)

    def look(at: Callable[[Member], Outcome | None]) -> None:
        leaving = []
        for member in going:
            outcome: Outcome | Exception | None
            try:
                outcome = at(member)
            except Exception as error:
                outcome = error
            if outcome is not None:
                leaving.append(member)
                end(member, outcome)
        if leaving:
            going[:] = [member for member in going if member not in leaving]
            if going:
                stack.settle(going)

    look(lambda member: courses[member].begin(resumed[member]))
    while going:
        stack.update()
        look(lambda member: courses[member].go_on())
