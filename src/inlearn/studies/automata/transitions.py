"""What automata rows show, as one list of transitions: the form in which the ideal learners read their context.

Shapes: N rows, E transitions a row (each walk's first state is one too, that nothing leads to), K questions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.studies.automata.config import MAX_STATES
from inlearn.studies.automata.episodes import Episodes


@dataclass(frozen=True)
class Transitions:
    """In the order in which rows show them: the demonstrations', then those of the query, from column `query` on.

    States are the symbols shown, actions are numbers. A walk's first state has state and action -1, so no question
    matches it, yet it counts among the states shown. What is beyond a walk's end is not `shown`.
    """

    state: Tensor  # (N, E)
    action: Tensor  # (N, E)
    next: Tensor  # (N, E) the symbol of the next state
    shown: Tensor  # (N, E) bool
    position: Tensor  # (N, E) the input position that asks for `next`; -1 where none does
    query: int
    actions: int
    kept: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # counts of whole demonstrations

    def counts(self, which: str, questions: slice, width: int, part: str = "all") -> Tensor:
        """(N, K, width) float64: how often each symbol came next, in transitions before the question that agree with it
        in `which`: "pair", "state", "action", or "all" of them.

        `part`: only those of the "demos", only those of the "query", or "all".
        """
        if part == "all":
            return sum(self.counts(which, questions, width, part) for part in ("demos", "query"))
        key = self._key(which)
        if part == "demos" and questions.start >= self.query:  # which have all been seen by then
            asked = key[:, questions, None].clamp(min=0).expand(-1, -1, width)
            return self._of_demos(which, key, width).gather(1, asked)
        among = slice(0, self.query) if part == "demos" else slice(self.query, None)
        place = torch.arange(key.shape[1], device=key.device)
        agrees = key[:, questions, None] == key[:, None, among]
        agrees &= place[questions, None] > place[among]
        agrees &= self.shown[:, None, among]
        came = torch.nn.functional.one_hot(self.next[:, among], width)
        return (agrees.float() @ came.float()).double()  # whole numbers far below 2^24: exact

    def _key(self, which: str) -> Tensor:
        """(N, E) equal where transitions agree; negative where no action led to the state, unless that is no matter."""
        match which:
            case "pair":
                return self.state * self.actions + self.action
            case "state":
                return self.state
            case "action":
                return self.action
        return torch.zeros_like(self.state)

    def _of_demos(self, which: str, key: Tensor, width: int) -> Tensor:
        """(N, keys, width) float64: how often each symbol came next in the demonstrations."""
        if (which, width) not in self.kept:
            key, following = key[:, : self.query], self.next[:, : self.query]
            counted = (self.shown[:, : self.query] & (key >= 0)).double()
            keys = MAX_STATES * max(self.actions, 2)
            found = counted.new_zeros(len(key), keys * width)
            found.scatter_add_(1, key.clamp(min=0) * width + following, counted)
            self.kept[which, width] = found.view(-1, keys, width)
        return self.kept[which, width]

    def answered(self, column: int, answer: Tensor) -> Transitions:
        """The same rows where (N,) `answer` stands for the next state of the query's `column`, and is gone on from."""
        following, state = self.next.clone(), self.state.clone()
        following[:, column] = answer
        if column + 1 < state.shape[1]:
            state[:, column + 1] = answer
        return replace(self, next=following, state=state)


def transitions(episodes: Episodes) -> Transitions:
    walks = episodes.demo_lengths.shape[1]
    starts = torch.nn.functional.pad((2 * episodes.demo_lengths + 2).cumsum(1), (1, 0))  # of every walk's first symbol
    parts = [
        _walk(episodes, episodes.demo_states[:, d], episodes.demo_actions[:, d], episodes.demo_lengths[:, d], start)
        for d, start in enumerate(starts[:, :walks].unbind(1))
    ]
    query = sum(part[0].shape[1] for part in parts)
    states, actions, lengths = episodes.query_states, episodes.query_actions, episodes.query_lengths
    parts.append(_walk(episodes, states, actions, lengths, episodes.query_at - 2))
    together = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
    return Transitions(*together, query, episodes.table.shape[2])


def _walk(episodes: Episodes, states: Tensor, actions: Tensor, lengths: Tensor, start: Tensor) -> tuple[Tensor, ...]:
    """The fields of `Transitions`, (N, L + 1) each, of one walk whose first symbol stands at position `start`."""
    step = torch.arange(states.shape[1], device=states.device)
    shown = step <= lengths[:, None]
    symbols = episodes.state_symbols.gather(1, torch.where(shown, states, 0))
    asked = (shown & (step > 0))[:, 1:]
    before, taken = torch.where(asked, symbols[:, :-1], -1), torch.where(asked, actions, -1)
    position = torch.where(asked, start[:, None] + 2 * step[1:], -1)
    nothing = torch.full_like(start, -1)[:, None]
    state, action, position = (torch.cat((nothing, each), 1) for each in (before, taken, position))
    return state, action, symbols, shown, position


@dataclass(frozen=True)
class Questions:
    """The scored questions of a batch as columns of its transitions."""

    columns: slice
    row: Tensor  # (n,) of every scored position
    column: Tensor  # (n,) within `columns`

    def at(self, values: Tensor) -> Tensor:
        """(N, K, *) at the scored positions, (n, *), in row order."""
        return values[self.row, self.column]


def questions(batch: Batch, rows: Transitions) -> Questions:
    """Demonstrations are asked about only under dense supervision; else their columns need no answers."""
    count, length = batch.weights.shape
    whose = torch.full((count, length + 1), -1, device=rows.state.device)  # the last column takes what is not asked
    column = torch.arange(rows.state.shape[1], device=rows.state.device).expand_as(rows.position)
    whose.scatter_(1, torch.where(rows.position < 0, length, rows.position), column)
    asked = whose[:, :length].flatten()[batch.scored]
    first = 0 if (asked < rows.query).any() else rows.query
    return Questions(slice(first, rows.state.shape[1]), batch.scored_rows, asked - first)
