"""What is looked for: the study's own targets and those that every problem has, at scored positions.

Shapes: n scored positions. Classes are (n,) int64, -1 where undefined; quantities (n, D) float64, NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.contract import Study
from inlearn.core.draws import Address
from inlearn.core.errors import UserError, unknown


class FixedSeed:
    """One seed for every stream, so that what a probe draws follows its own configuration alone."""

    def __init__(self, seed: int):
        self.eval = seed


def targets(study: Study, batch: Batch, wanted: Sequence[str] | None) -> dict[str, Tensor]:
    """By name; `batch` still has its latents. UserError for a pattern that matches none."""
    own = study.probe_targets(batch)
    offered = {**_generic(batch), **own}
    for name, values in offered.items():
        classes = values.dtype == torch.int64 and values.shape == batch.weights.shape
        if not classes and not (values.is_floating_point() and values.shape[:2] == batch.weights.shape):
            raise ValueError(f"probe target '{name}' is {values.dtype} of shape {tuple(values.shape)}")
    for pattern in wanted or ():
        if not any(matches(name, pattern) for name in offered):
            raise unknown("target", pattern, {*offered, *map(family, offered)})
    if wanted is not None:
        offered = {name: v for name, v in offered.items() if any(matches(name, pattern) for pattern in wanted)}
    found = {name: _flat(batch.at_scored(values)) for name, values in offered.items()}
    found = {name: values for name, values in found.items() if defined(values).any()}
    if wanted is None:  # what has a better name in the study is looked for once
        named = [values for name, values in found.items() if name in own]
        found = {n: v for n, v in found.items() if n in own or not any(torch.equal(v, other) for other in named)}
    return found


def family(name: str) -> str:
    """What "entry[2,5]" is one of: "entry"; of other names, the name."""
    return name.partition("[")[0]


def matches(name: str, pattern: str) -> bool:
    """A name, the beginning of names with brackets, or a pattern in which brackets mean themselves."""
    return pattern in (name, family(name)) or fnmatchcase(name, pattern.replace("[", "[[]"))


def defined(values: Tensor) -> Tensor:
    """(n,) bool."""
    return values >= 0 if values.dtype == torch.int64 else values.isfinite().all(-1)


def _flat(values: Tensor) -> Tensor:
    return values if values.dtype == torch.int64 else values.double().reshape(len(values), -1)


def _generic(batch: Batch) -> dict[str, Tensor]:
    """The answer, the input and the input before it, which no row has at its first position."""
    before = torch.full_like(batch.inputs, -1 if batch.inputs.dtype == torch.int64 else torch.nan)
    before[:, 1:] = batch.inputs[:, :-1]
    return {"target": batch.targets, "current_input": batch.inputs, "previous_input": before}


def shuffled(values: Tensor, rows: Tensor, parts: Sequence[slice], seed: int, name: str) -> Tensor:
    """Labels that go with other rows, within each of `parts`; elsewhere as they are.

    A row takes over another's labels in their order, over again where it has fewer: labels that are the same all
    along a row remain so, and nothing of the inputs can tell them. `rows` (n,): the row of every position.
    """
    found, known = values.clone(), defined(values)
    address = Address(FixedSeed(seed), "probe/eval")
    for number, part in enumerate(parts):
        places = known[part].nonzero().squeeze(-1) + part.start
        if not len(places):
            continue
        _, here, counts = rows[places].unique_consecutive(return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        given = draws.permutation(address.key("shuffle", name, number), len(counts))
        along = torch.arange(len(places)) - starts[here]
        found[places] = values[places[starts[given][here] + along % counts[given][here]]]
    return found


def check(found: Mapping[str, Tensor], set_name: str) -> None:
    if not found:
        raise UserError(f"targets: none of those asked for is defined at a question of set '{set_name}'")
