"""The literal form of every recurrence: one position after another, as its formula is written.

Layers and mixers that carry a state define `step(state, inputs of one position) -> state`. Their fast forms (library
kernels, chunked scans) are tested against what stands here, which also serves wherever a hook wants the states
themselves: `intervene` edits a hidden state and every later position follows from the edited one.

Shapes: a state is a tuple of tensors (..., N, *); its trace has T after N. "..." is nothing or the members of a stack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from inlearn.models.activations import Point

State = tuple[Tensor, ...]
Step = Callable[[State, tuple[Tensor, ...]], State]

_forced = [False]


@contextlib.contextmanager
def sequential() -> Iterator[None]:
    """Within the block every model computes its recurrences in their literal form."""
    before, _forced[0] = _forced[0], True
    try:
        yield
    finally:
        _forced[0] = before


def literal(*points: Point) -> bool:
    """Whether a recurrence whose states pass through these points has to be computed position by position."""
    return _forced[0] or any(point.hooked for point in points)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Within the block nothing is computed in autocast's precision: rounding errors of a recurrence add up."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def trace(step: Step, state: State, inputs: Sequence[Tensor], axis: int) -> State:
    """The states after each of T positions, given `inputs` (..., N, T, *) whose positions lie along `axis`."""
    states = []
    for now in zip(*(x.unbind(axis) for x in inputs), strict=True):
        state = step(state, now)
        states.append(state)
    return tuple(torch.stack(parts, axis) for parts in zip(*states, strict=True))


def through(
    points: Sequence[Point],
    step: Step,
    state: State,
    inputs: Sequence[Tensor],
    axis: int,
    within: Callable[[State, tuple[Tensor, ...], State], State] | None = None,
) -> State:
    """`trace`, each part of the state seen and edited at its point, and edits carried on to all that comes later.

    Within a position the last part comes first: `within(state before, inputs, state with an edited part)` gives the
    state in which the parts before that one follow from it (an LSTM's hidden state from its cell).

    An edit is called with the states of all positions as they are before it, and may be called once for every
    position that it changes: it has to be a function of what it is given.
    """
    done = trace(step, state, inputs, axis)
    if not any(point.hooked for point in points):
        return done
    steps, parts, place = inputs[0].shape[axis], len(points), 0  # places: a position's parts, then the next one's
    while True:
        edited = tuple(point(part) for point, part in zip(points, done, strict=True))
        place = _next_change(done, edited, place, axis)
        if place == steps * parts:
            return edited
        position, part = place // parts, parts - 1 - place % parts
        before = state if position == 0 else tuple(e.select(axis, position - 1) for e in edited)
        here = tuple(x.select(axis, position) for x in (*done[:part], *edited[part:]))
        if within is not None and part > 0:
            here = within(before, tuple(x.select(axis, position) for x in inputs), here)
        # What was edited stays in `done` as it was before; what follows from it takes the place of what was there.
        found = [_replaced(done[p], position, here[p], axis) for p in range(part)] + list(done[part:])
        if position + 1 < steps:
            rest = trace(step, here, [x.narrow(axis, position + 1, steps - position - 1) for x in inputs], axis)
            found = [torch.cat((f.narrow(axis, 0, position + 1), r), axis) for f, r in zip(found, rest, strict=True)]
        done, place = tuple(found), place + 1


def _replaced(x: Tensor, position: int, value: Tensor, axis: int) -> Tensor:
    after = x.shape[axis] - position - 1
    parts = x.narrow(axis, 0, position), value.unsqueeze(axis), x.narrow(axis, position + 1, after)
    return torch.cat(parts, axis)


def _next_change(before: State, after: State, place: int, axis: int) -> int:
    """The first place from `place` on where an edit changed something; the number of places if there is none."""
    changed = []
    for one, other in zip(reversed(before), reversed(after), strict=True):
        if one.shape != other.shape:
            raise ValueError(f"an edit made states of shape {tuple(other.shape)} of {tuple(one.shape)}")
        differs = (one != other) & ~(one.isnan() & other.isnan())
        changed.append(differs.movedim(axis, 0).flatten(1).any(1).cpu())
    places = torch.stack(changed, 1).flatten()
    later = places[place:].nonzero()
    return place + int(later[0]) if len(later) else len(places)


def fork(state: State, rows: int, lead: int) -> State:
    """The state of `rows` rows that continue its fewer ones evenly, row n from n // (rows / its rows).

    `lead`: how many axes (of members) stand before the rows. Raises ValueError where they do not divide.
    """
    before = state[0].shape[lead]
    if rows == before:
        return state
    if rows % before:
        raise ValueError(f"{rows} rows cannot continue the {before} rows of a state evenly")
    return tuple(part.repeat_interleave(rows // before, lead) for part in state)
