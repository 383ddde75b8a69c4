"""The training loop of a stack: all members are updated at once, and each is looked after as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inlearn.core import device as devices
from inlearn.training.loop import Course, Outcome, Updates
from inlearn.training.stack import Member, MemberFault, Stack

End = Callable[[Member, Outcome | Exception], None]
"""Told once of every member, as soon as it ends: how, or what went wrong with its own folder, sets or trackers."""


def train_together(
    stack: Stack,
    courses: Mapping[Member, Course],
    resumed: Mapping[Member, bool],
    end: End,
    updates: Updates | None = None,
) -> None:
    """Train every member to its own end. One that ends, fails or is asked to leave goes; the others go on.

    `updates`, where given, makes the updates, several at a time. What goes wrong with an update itself, and a device
    that is lost, is raised: it befalls all.
    """
    going = list(stack.members)

    def look(at: Callable[[Member], Outcome | None]) -> None:
        leaving = []
        for member in going:
            outcome: Outcome | Exception | None
            try:
                outcome = at(member)
            except Exception as error:
                if devices.fault_of(error) is not None:  # heard of when a member's numbers were read
                    raise
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
        try:
            if updates is None:
                stack.update()
            else:
                updates.advance(min(courses[member].clear() for member in going))
        except MemberFault as fault:
            going.remove(fault.member)
            end(fault.member, fault.__cause__)
            if going:
                stack.settle(going)
            continue
        look(lambda member: courses[member].go_on())
