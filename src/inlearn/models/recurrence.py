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


def trace(step: Step, state: State, inputs: Sequence[Tensor], axis: int) -> State:
    """The states after each of T positions, given `inputs` (..., N, T, *) whose positions lie along `axis`."""
    states = []
    for now in zip(*(x.unbind(axis) for x in inputs), strict=True):
        state = step(state, now)
        states.append(state)
    return tuple(torch.stack(parts, axis) for parts in zip(*states, strict=True))


def through(points: Sequence[Point], step: Step, state: State, inputs: Sequence[Tensor], axis: int) -> State:
    """`trace`, each part of the state seen and edited at its point, and edits carried on to all later positions.

    An edit is called with the states of all positions as they are before it, and may be called once for every
    position that it changes: it has to be a function of what it is given.
    """
    if not any(point.hooked for point in points):
        return trace(step, state, inputs, axis)
    steps = inputs[0].shape[axis]
    done: State = ()
    begin = 0
    while True:
        rest = trace(step, state, [x.narrow(axis, begin, steps - begin) for x in inputs], axis)
        done = tuple(torch.cat((d.narrow(axis, 0, begin), r), axis) for d, r in zip(done, rest, strict=True)) or rest
        edited = tuple(point(part) for point, part in zip(points, done, strict=True))
        begin = _first_change(done, edited, begin, axis) + 1
        if begin >= steps:
            return edited
        state = tuple(part.select(axis, begin - 1) for part in edited)


def _first_change(before: State, after: State, begin: int, axis: int) -> int:
    """The first position from `begin` on where an edit changed any part; the last one if there is none."""
    steps = before[0].shape[axis]
    changed = torch.zeros(steps, dtype=torch.bool)
    for one, other in zip(before, after, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"an edit made states of shape {tuple(other.shape)} of {tuple(one.shape)}")
        changed |= (one != other).movedim(axis, 0).flatten(1).any(1).cpu()
    later = changed[begin:].nonzero()
    return begin + int(later[0]) if len(later) else steps - 1


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
