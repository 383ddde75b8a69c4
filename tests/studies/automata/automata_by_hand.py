"""Machines, walks, rows and marks once more, slowly: one row at a time in plain Python, after the published recipe."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

from inlearn.core.batch import Batch
from inlearn.studies.automata.config import EOS, MAX_STATES, PAD, QUERY, MachinesConfig
from inlearn.studies.automata.episodes import Episodes

Walk = tuple[list[int], list[int]]  # states, one more than actions


@dataclass
class Row:
    table: list[list[int]]  # -1 where a partial machine has no next state
    demos: list[Walk]
    query: Walk
    state_symbols: list[int]
    action_symbols: list[int]

    def symbols(self) -> tuple[list[int], list[int], list[int]]:
        """The sequence, the places of the query's next states and those of the demonstrations'."""
        sequence, asked, shown = [], [], []
        for states, actions in self.demos:
            self._walk(sequence, shown, states, actions)
            sequence.append(EOS)
        sequence.append(QUERY)
        self._walk(sequence, asked, *self.query)
        return [*sequence, EOS], asked, shown

    def _walk(self, sequence: list[int], places: list[int], states: list[int], actions: list[int]) -> None:
        sequence.append(self.state_symbols[states[0]])
        for action, state in zip(actions, states[1:], strict=True):
            sequence.append(self.action_symbols[action])
            places.append(len(sequence))
            sequence.append(self.state_symbols[state])

    def absorbs(self, state: int) -> bool:
        return all(following in (state, -1) for following in self.table[state])


def machine(task: MachinesConfig, rng: random.Random) -> list[list[int]]:
    table = [[-1] * task.actions for _ in range(task.states)]
    attached, waiting = [0], list(range(1, task.states))
    while waiting:
        state = rng.choice([s for s in attached if -1 in table[s]])
        following = waiting.pop(rng.randrange(len(waiting)))
        table[state][rng.choice([a for a in range(task.actions) if table[state][a] < 0])] = following
        attached.append(following)
    for row in table:
        for action in range(task.actions):
            if row[action] < 0 and (rng.random() < task.defined or max(row) < 0):
                row[action] = rng.randrange(task.states)
    if task.absorbing == "one":
        trap = rng.randrange(task.states)
        table[trap] = [trap] * task.actions
    return table


def walk(table: list[list[int]], start: int, given: int, jitter: float, rng: random.Random) -> Walk:
    states, actions = [start], []
    for _ in range(max(1, math.floor(given * (1 + rng.uniform(-jitter, jitter))))):
        action = rng.choice([a for a, following in enumerate(table[states[-1]]) if following >= 0])
        actions.append(action)
        states.append(table[states[-1]][action])
    return states, actions


def row(task: MachinesConfig, rng: random.Random) -> Row:
    table = machine(task, rng)
    demos = [
        walk(table, start, task.walk(task.demo_length), task.jitter, rng)
        for start in rng.sample(range(task.states), task.demos)
    ]
    query = walk(table, rng.randrange(task.states), task.walk(task.query_length), task.jitter, rng)
    states, actions = list(range(task.states)), list(range(task.actions))
    if task.outputs:
        states = [rng.randrange(task.outputs) for _ in states]
    if task.relabel:
        names = rng.sample(range(8), 8)
        states, actions = [names[state] for state in states], rng.sample(range(10), task.actions)
    return Row(table, demos, query, states, [MAX_STATES + action for action in actions])


def rows(task: MachinesConfig, count: int, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    return [row(task, rng) for _ in range(count)]


def batch(task: MachinesConfig, made: list[Row], dense: bool = False, free: bool = False) -> Batch:
    count, length = len(made), task.length
    inputs = torch.full((count, length), PAD)
    targets, weights = torch.zeros(count, length, dtype=torch.int64), torch.zeros(count, length)
    feedback = torch.zeros(count, length, dtype=torch.bool)
    marks = {
        name: torch.zeros(count, length, dtype=torch.int64) for name in ("position", "seen", "occurrences", "absorbed")
    }
    for n, one in enumerate(made):
        sequence, asked, shown = one.symbols()
        shifted = [sequence[0], *sequence][:length]
        inputs[n, : len(shifted)] = torch.tensor(shifted)
        for place, symbol in enumerate(sequence):
            targets[n, place] = symbol if symbol < MAX_STATES else 0
        weights[n, asked + (shown if dense else [])] = 1
        feedback[n, [place + 1 for place in asked]] = True
        before = [pair for walk in one.demos for pair in zip(*walk, strict=False)]
        in_demos = len(before)
        for k, (place, state, action) in enumerate(zip(asked, *one.query, strict=False)):
            times = before.count((state, action))
            marks["position"][n, place] = k + 1
            marks["seen"][n, place] = 2 if (state, action) in before[:in_demos] else int(times > 0)
            marks["occurrences"][n, place] = 2 ** math.floor(math.log2(times)) if times else 0
            marks["absorbed"][n, place] = int(one.absorbs(state))
            before.append((state, action))
    return Batch(
        inputs, targets, weights, marks=marks, latents=episodes(task, made), feedback=feedback if free else None
    )


def episodes(task: MachinesConfig, made: list[Row]) -> Episodes:
    longest, most = task.longest(task.demo_length), task.longest(task.query_length)

    def padded(values: list[int], length: int) -> list[int]:
        return values + [0] * (length - len(values))

    demos = [[(padded(s, longest + 1), padded(a, longest)) for s, a in one.demos] for one in made]
    return Episodes(
        torch.tensor([one.table for one in made]),
        torch.tensor([[states for states, _ in row] for row in demos]),
        torch.tensor([[actions for _, actions in row] for row in demos]),
        torch.tensor([[len(actions) for _, actions in one.demos] for one in made]),
        torch.tensor([padded(one.query[0], most + 1) for one in made]),
        torch.tensor([padded(one.query[1], most) for one in made]),
        torch.tensor([len(one.query[1]) for one in made]),
        torch.tensor([one.symbols()[1][0] for one in made]),
        torch.tensor([one.state_symbols for one in made]),
        torch.tensor([one.action_symbols for one in made]),
    )
