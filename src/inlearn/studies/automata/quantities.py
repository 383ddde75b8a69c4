"""Numbers of the problem itself, as means over drawn machines: what ideal learners score, and what is drawn.

A problem is given by the keys of `task`, e.g. {states: 5, actions: 5}. Rows are those of the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.configuration import canonical, resolve
from inlearn.core.draws import Address
from inlearn.core.errors import UserError, unknown
from inlearn.studies.automata.config import MachinesConfig
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.machines import absorbing, reached
from inlearn.studies.automata.measures import MEASURES
from inlearn.studies.automata.references import learners
from inlearn.studies.automata.stored import Pinned
from inlearn.studies.automata.study import interface_of
from inlearn.studies.automata.tasks import Machines

_SYMBOLS = 1 << 16  # of the rows that are looked at together


def _batches(task: MachinesConfig, rows: int, seed: int, free: bool = False) -> Iterator[Batch]:
    """`rows` rows in parts that fit a cache."""
    drawn = Machines(interface_of(task, task.length), task, "train", free=free)
    at, together = Address(Pinned(seed), "eval"), max(1, _SYMBOLS // task.length)
    for first in range(0, rows, together):
        yield drawn.sample(at, min(together, rows - first), first)


def score(
    learner: str,
    task: Mapping[str, Any],
    measure: str = "accuracy",
    free: bool = False,
    moving: bool = False,
    rows: int = 2000,
    seed: int = 0,
) -> float:
    """The mean of a measure of an ideal learner, over questions or, where it has one value a row, over rows.

    free: it goes on from its own answers. moving: at questions whose state is not one that no action leaves.
    """
    config = resolve(MachinesConfig, task)
    names = tuple(each.name for each in learners(config))
    for what, given, known in (("learner", learner, names), ("measure", measure, [m.name for m in MEASURES])):
        if given not in known:
            raise unknown(what, given, known)
    found = _scores(canonical(dict(task)), (learner,) if free else names, free, rows, seed)
    if (learner, measure, moving) not in found:
        raise UserError(f"measure {measure} is of rows: expected moving = false")
    return found[learner, measure, moving]


@lru_cache(maxsize=64)
def _scores(task: str, names: tuple[str, ...], free: bool, rows: int, seed: int) -> dict[tuple[str, str, bool], float]:
    """(learner, measure, moving): every one, because a claim asks for many of the same rows."""
    config = MachinesConfig.model_validate_json(task)
    space = interface_of(config, config.length).outputs
    own = [each for each in learners(config) if each.name in names]
    parts: dict[tuple[str, str, bool], list[Tensor]] = {}
    for batch in _batches(config, rows, seed, free):
        moves = batch.at_scored(batch.marks["absorbed"]) == 0
        for learner in own:
            prediction = learner.predict(batch)
            for measure in MEASURES:
                values = measure.value(batch, space, prediction)
                parts.setdefault((learner.name, measure.name, False), []).append(values)
                if len(values) == len(moves):
                    parts.setdefault((learner.name, measure.name, True), []).append(values[moves])
    return {what: torch.cat(values).mean().item() for what, values in parts.items()}


def statistic(name: str, task: Mapping[str, Any], rows: int = 20_000, seed: int = 0) -> float:
    """The mean over rows of one of `STATISTICS`."""
    if name not in STATISTICS:
        raise unknown("statistic", name, STATISTICS)
    config = resolve(MachinesConfig, task)
    return sum(STATISTICS[name](batch.latents).double().sum().item() for batch in _batches(config, rows, seed)) / rows


def _loops(e: Episodes) -> Tensor:
    states = e.table.shape[-2]
    return (e.table == torch.arange(states)[:, None]).sum((1, 2)) / states


def _coverage(e: Episodes) -> Tensor:
    states, actions = e.table.shape[-2:]
    shown = torch.arange(e.demo_actions.shape[-1]) < e.demo_lengths[..., None]
    pair = torch.where(shown, e.demo_states[..., :-1] * actions + e.demo_actions, states * actions)
    found = torch.zeros(len(pair), states * actions + 1).scatter_(1, pair.flatten(1), 1.0)
    return found[:, :-1].mean(1)


def _moving(e: Episodes) -> Tensor:
    asked = torch.arange(e.query_actions.shape[-1]) < e.query_lengths[:, None]
    stuck = absorbing(e.table).gather(1, torch.where(asked, e.query_states[:, :-1], 0))
    return (asked & ~stuck).sum(1) / e.query_lengths


STATISTICS: dict[str, Callable[[Episodes], Tensor]] = {
    "connected": lambda e: reached(e.table).flatten(1).all(1),
    "absorbing": lambda e: absorbing(e.table).any(1),
    "absorbing_states": lambda e: absorbing(e.table).sum(1),
    "reached": lambda e: reached(e.table)[:, 0].all(1),
    "loops": _loops,
    "symbols": lambda e: (2 * e.demo_lengths + 2).sum(1) + 2 * e.query_lengths + 3,
    "coverage": _coverage,
    "moving": _moving,
}
"""Of a row, (N,): is every state reached from every other; is there a state that no action leaves, and how many; is
every state reached from state 0; actions of a state that stay; symbols; the share of pairs that demonstrations show;
the share of the query's questions whose state some action leaves."""

QUANTITIES = {"score": score, "statistic": statistic}
