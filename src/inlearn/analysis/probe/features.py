"""Activations at scored positions, kept in memory. Shapes: N rows, T positions, n scored positions of all rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.device import autocast
from inlearn.core.errors import UserError
from inlearn.models import activations
from inlearn.models.forward import outputs_at_scored

EMBED = "embed"  # what is probed in any case: what can be told from the current input alone
DEFAULT = re.compile(r"embed|blocks\.\d+\.(recurrence\.hidden|recurrence\.cell|mixer\.state|output)")
WIDEST = 2048  # numbers of a state that is probed without being asked for: a probe's cost grows with their square
ROOM = 1 << 29  # numbers of activations in memory at a time: 2 GiB
PASS = 1 << 25  # numbers of activations that one forward pass may leave


def chosen(
    model: nn.Module, batch: Batch, together: int, wanted: Sequence[str] | None, say: Callable[[str], None]
) -> dict[str, int]:
    """The activations to probe and how many numbers each has a position, the embedded inputs first.

    Left out with a word: what has no value for every row and position, and wide states that were not asked for.
    UserError for a pattern that matches nothing that can be probed.
    """
    names = _default(model) if wanted is None else activations.matching(model, [EMBED, *wanted])
    names.sort(key=lambda name: name != EMBED)
    found = _sizes(model, batch.part(0, together), names)
    sizes = {name: size for name, size in found.items() if size is not None}
    for pattern in wanted or ():
        matched = activations.matching(model, [pattern])
        if not sizes.keys() & set(matched):
            raise UserError(f"activations: {matched[0]} has no value for each row and position; expected one that has")
    for name in [name for name in found if name not in sizes]:
        say(f"{name} is left out: it has no value for each row and position")
    if wanted is None:
        for name in [name for name, size in sizes.items() if size > WIDEST and name.endswith(".state")]:
            say(f"{name} is left out for its {sizes.pop(name):,} numbers a position: activations={name} asks for it")
    return sizes


def _default(model: nn.Module) -> list[str]:
    """A recurrent layer's output is its hidden state, which is probed once."""
    found = [name for name in activations.names(model) if DEFAULT.fullmatch(name)]
    twice = {name.replace("recurrence.hidden", "output") for name in found if name.endswith("recurrence.hidden")}
    return [name for name in found if name not in twice]


def _sizes(model: nn.Module, batch: Batch, names: Sequence[str]) -> dict[str, int | None]:
    """Numbers a position; none where the axes after the rows do not follow the number of positions."""
    lengths = sorted({max(1, batch.inputs.shape[1] - 1), batch.inputs.shape[1]})
    shapes: dict[str, list[torch.Size]] = {name: [] for name in names}
    device = next(model.parameters()).device
    for length in lengths:
        cut = {name: getattr(batch, name)[:, :length] for name in ("inputs", "targets", "weights")}
        with torch.no_grad(), activations.capture(model, names) as seen:
            outputs_at_scored(model, replace(batch, **cut, columns=None).to(device))
        for name in names:
            shapes[name].append(seen[name].shape)

    def follows(shape: torch.Size, length: int) -> bool:
        return len(shape) > 2 and shape[:2] == (batch.rows, length)

    return {name: math.prod(own[-1][2:]) if all(map(follows, own, lengths)) else None for name, own in shapes.items()}


def in_turn(sizes: Mapping[str, int], positions: int) -> list[list[str]]:
    """The activations in as few groups as fit into memory one after another, each of which takes a forward pass."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or room + size * positions > ROOM:
            groups.append([])
            room = 0
        groups[-1].append(name)
        room += size * positions
    return groups


def at_scored(
    model: nn.Module, batch: Batch, together: int, sizes: Mapping[str, int], device: torch.device, precision: str
) -> dict[str, Tensor]:
    """Each activation at the scored positions, (n, size) float32 on the CPU. In evaluation mode: nothing is dropped.

    UserError where one is not finite.
    """
    length = batch.inputs.shape[1] + (0 if batch.prefix is None else batch.prefix.shape[1])
    rows = max(1, PASS // (sum(sizes.values()) * length * together)) * together
    found = {name: torch.empty(len(batch.scored), size) for name, size in sizes.items()}
    place = 0
    for first in range(0, batch.rows, rows):
        part = batch.part(first, min(rows, batch.rows - first)).to(device)
        with torch.no_grad(), autocast(device, precision), activations.capture(model.eval(), list(sizes)) as seen:
            outputs_at_scored(model, part)
        for name in sizes:
            found[name][place : place + len(part.scored)] = part.at_scored(seen[name]).flatten(1).float().cpu()
        place += len(part.scored)
    for name, values in found.items():
        if not values.isfinite().all():
            raise UserError(f"{name} has values that are not finite: this checkpoint's weights cannot be probed")
    return found
