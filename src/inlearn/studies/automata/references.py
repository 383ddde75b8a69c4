"""The ideal learners of automata, as log-probabilities (n, width) of states at the scored positions, in float64.

They read what generated the rows (`episodes.Episodes`), so none has to parse symbols, and go by the symbols that rows
show: where states show outputs, several states look alike to them.

On sets where learners run freely (`Batch.feedback`) each goes on from its own answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Mechanism, Reference
from inlearn.studies.automata.config import MAX_STATES, AutomataConfig, MachinesConfig
from inlearn.studies.automata.transitions import Transitions, questions, transitions

SMOOTHING = 0.5  # added to every count of a marginal rule (Krichevsky & Trofimov 1981)

Counts = Callable[..., Tensor]
"""`Transitions.counts` of the questions at hand: (which, part) -> (N, K, width)."""


@dataclass(frozen=True)
class Answers:
    """What a learner may answer: (.., width) log-probabilities, of which the first `possible` can be above -inf.

    `certain`: the same state and action always lead to the same symbol; not so where states show outputs.
    """

    width: int
    possible: int
    certain: bool

    @staticmethod
    def of(task: MachinesConfig) -> Answers:
        shown = task.outputs or task.states
        possible = MAX_STATES if task.relabel else shown
        return Answers(MAX_STATES if task.head == "all" else task.states, possible, task.outputs is None)

    def shares(self, counts: Tensor) -> Tensor:
        """Smoothed frequencies: `SMOOTHING` is added to the count of everything possible."""
        counts = counts + SMOOTHING * (torch.arange(self.width, device=counts.device) < self.possible)
        return counts / counts.sum(-1, keepdim=True)

    def decided(self, counts: Tensor, otherwise: Tensor) -> Tensor:
        """What came next before, or, of what was never seen, the likeliest state of all: shares of `otherwise`.

        Where the same pair may lead to several symbols, that counts as one more observation.
        """
        seen, fallback = counts.sum(-1, keepdim=True), self.shares(otherwise)
        if not self.certain:
            return (counts + fallback) / (seen + 1)
        return torch.where(seen > 0, counts / seen.clamp(min=1), fallback)


@dataclass(frozen=True)
class Learner:
    """A rule from counts to probabilities, (N, K, width) each, asked question by question or all at once."""

    name: str
    rule: Callable[[Answers, Counts], Tensor]
    answers: Answers
    mechanism: Mechanism = "context"

    def predict(self, batch: Batch) -> Tensor:
        rows = transitions(batch.latents)
        asked = questions(batch, rows)
        if batch.feedback is None:
            return asked.at(self._shares(rows, asked.columns)).log()
        every = []
        for column in range(asked.columns.start, asked.columns.stop):
            shares = self._shares(rows, slice(column, column + 1))
            every.append(shares)
            if column > rows.query:  # the query's first state is given
                rows = rows.answered(column, shares[:, 0].argmax(-1))
        return asked.at(torch.cat(every, 1)).log()

    def _shares(self, rows: Transitions, columns: slice) -> Tensor:
        return self.rule(self.answers, lambda which, part="all": rows.counts(which, columns, self.answers.width, part))


@dataclass(frozen=True)
class Oracle:
    """Knows the machine and the state that it is in: certain, and right."""

    answers: Answers
    name: str = "oracle"
    mechanism: Mechanism = "tool"

    def predict(self, batch: Batch) -> Tensor:
        target = batch.at_scored(batch.targets)
        shape = len(target), self.answers.width
        impossible = torch.full(shape, -torch.inf, dtype=torch.float64, device=target.device)
        return impossible.scatter_(-1, target[:, None], 0.0)


# ---------------------------------------------------------------- rules


def _look_up(answers: Answers, counts: Counts) -> Tensor:
    return answers.decided(counts("pair"), counts("all"))


def _look_up_demos(answers: Answers, counts: Counts) -> Tensor:
    return answers.decided(counts("pair", "demos"), counts("all", "demos"))


def _query_only(answers: Answers, counts: Counts) -> Tensor:
    """Of what the query has not shown, nothing: all states alike, so the first of them is named, as published."""
    return answers.decided(counts("pair", "query"), torch.zeros_like(counts("pair", "query")))


def _naive_bayes(answers: Answers, counts: Counts) -> Tensor:
    """As if state and action were independent given the next state."""
    state, action, all_ = (answers.shares(counts(which, "demos")) for which in ("state", "action", "all"))
    product = torch.where(all_ > 0, state * action / all_.clamp(min=1e-300), 0.0)
    return product / product.sum(-1, keepdim=True)


def _given_state(answers: Answers, counts: Counts) -> Tensor:
    return answers.shares(counts("state", "demos"))


def _given_action(answers: Answers, counts: Counts) -> Tensor:
    return answers.shares(counts("action", "demos"))


def _unigram(answers: Answers, counts: Counts) -> Tensor:
    return answers.shares(counts("all", "demos"))


def _uniform(answers: Answers, counts: Counts) -> Tensor:
    return answers.shares(torch.zeros_like(counts("all", "demos")))


_RULES = {
    "look_up": _look_up,
    "look_up_demos": _look_up_demos,
    "query_only": _query_only,
    "naive_bayes": _naive_bayes,
    "given_action": _given_action,
    "given_state": _given_state,
    "unigram": _unigram,
}


def learners(task: MachinesConfig) -> Sequence[Reference]:
    """All ideal learners, the best first."""
    answers = Answers.of(task)
    ruled = (Learner(name, rule, answers) for name, rule in _RULES.items())
    return (Oracle(answers), *ruled, Learner("uniform", _uniform, answers, "none"))


def references(config: AutomataConfig, name: str) -> Sequence[Reference]:
    """The ideal learners of evaluation set `name`: the same on every set."""
    return learners(config.task)
