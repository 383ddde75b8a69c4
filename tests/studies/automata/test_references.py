"""Ideal learners against a reader of the symbols that goes question by question, and what each must know or not."""

from __future__ import annotations

import math
from collections import Counter

import automata_by_hand as by_hand
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.studies.automata.config import EOS, MAX_STATES, QUERY, AutomataConfig, MachinesConfig
from inlearn.studies.automata.references import references

Probabilities = list[float]
NAMES = [
    "oracle",
    "look_up",
    "look_up_demos",
    "query_only",
    "naive_bayes",
    "given_action",
    "given_state",
    "unigram",
    "uniform",
]


@st.composite
def problems(draw) -> MachinesConfig:
    states, actions = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    if actions == 1 and states > 2:
        actions = 2
    shorter = {"demo_length": draw(st.integers(1, 12)), "query_length": draw(st.integers(1, 12))}
    kind = draw(st.sampled_from(["plain", "relabel", "outputs", "partial", "states", "one", "both"]))
    special = {
        "plain": {},
        "relabel": {"relabel": True},
        "outputs": {"outputs": 2},
        "both": {"outputs": 2, "relabel": True},
        "partial": {"defined": 1.0 if actions == 1 else 0.75},
        "states": {"head": "states"},
        "one": {"absorbing": "one"},
    }[kind]
    demos = draw(st.integers(1, states))
    return MachinesConfig(states=states, actions=actions, demos=demos, **shorter, **special)


def learners(task: MachinesConfig) -> dict:
    return {learner.name: learner for learner in references(AutomataConfig(task=task), "test")}


# ---------------------------------------------------------------- the slow second implementation


class Reader:
    """Reads a row symbol by symbol and says what each learner thinks at every next state, from what it has read.

    `free`: the query goes on from the learner's own answers.
    """

    def __init__(self, task: MachinesConfig, learner: str, free: bool):
        self.learner, self.free = learner, free
        self.possible = MAX_STATES if task.relabel else task.outputs or task.states
        self.width = MAX_STATES if task.head == "all" else task.states
        self.certain = task.outputs is None
        self.seen: dict[str, list[tuple[int, int, int]]] = {"demos": [], "query": []}
        self.states: dict[str, list[int]] = {"demos": [], "query": []}
        self.answers: list[Probabilities] = []

    def read(self, sequence: list[int], dense: bool) -> list[Probabilities]:
        part, state, action = "demos", None, None
        for symbol in sequence:
            if symbol in (EOS, QUERY):
                part, state = ("query" if symbol == QUERY else part), None
            elif symbol >= MAX_STATES:
                action = symbol
            else:
                if state is not None:
                    thought = self.think(state, action)
                    if dense or part == "query":
                        self.answers.append(thought)
                    if self.free and part == "query":
                        symbol = thought.index(max(thought))
                    self.seen[part].append((state, action, symbol))
                state = symbol
                self.states[part].append(symbol)
        return self.answers

    def shares(self, found: Counter) -> Probabilities:
        total = sum(found.values()) + 0.5 * self.possible
        return [(found[s] + 0.5) / total if s < self.possible else 0.0 for s in range(self.width)]

    def after(self, parts: tuple[str, ...], state: int | None = None, action: int | None = None) -> Counter:
        every = [one for part in parts for one in self.seen[part]]
        return Counter(t for s, a, t in every if state in (None, s) and action in (None, a))

    def recall(self, parts: tuple[str, ...], state: int, action: int, otherwise: Counter) -> Probabilities:
        found, fallback = self.after(parts, state, action), self.shares(otherwise)
        if self.certain and found:
            return [found[s] / found.total() for s in range(self.width)]
        return [(found[s] + p) / (found.total() + 1) for s, p in enumerate(fallback)]

    def think(self, state: int, action: int) -> Probabilities:
        both = ("demos", "query")
        states = {part: Counter(self.states[part]) for part in both}
        match self.learner:
            case "look_up":
                return self.recall(both, state, action, states["demos"] + states["query"])
            case "look_up_demos":
                return self.recall(both[:1], state, action, states["demos"])
            case "query_only":
                return self.recall(both[1:], state, action, Counter())
            case "given_state":
                return self.shares(self.after(both[:1], state=state))
            case "given_action":
                return self.shares(self.after(both[:1], action=action))
            case "unigram":
                return self.shares(states["demos"])
            case "uniform":
                return self.shares(Counter())
        first, second = self.after(both[:1], state=state), self.after(both[:1], action=action)
        base = self.shares(states["demos"])
        product = [p * q / b if b else 0.0 for p, q, b in zip(self.shares(first), self.shares(second), base)]  # noqa: B905
        return [p / sum(product) for p in product]


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["query", "dense", "free"]), st.integers(0, 10_000))
def test_learners_say_what_a_reader_of_the_symbols_would(task: MachinesConfig, how: str, seed: int):
    made = by_hand.rows(task, 4, seed)
    batch = by_hand.batch(task, made, dense=how == "dense", free=how == "free")
    found = learners(task)
    assert list(found) == NAMES
    for name in NAMES[1:]:
        readers = [Reader(task, name, how == "free") for _ in made]
        read = [reader.read(one.symbols()[0], how == "dense") for reader, one in zip(readers, made, strict=True)]
        expected = [answer for row in read for answer in row]
        said = found[name].predict(batch)
        assert said.dtype == torch.float64 and said.shape == (len(batch.scored), len(expected[0]))
        assert torch.allclose(said.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0), name


# ---------------------------------------------------------------- what each knows


def made(task: MachinesConfig, rows: int = 60, **how: bool) -> Batch:
    return by_hand.batch(task, by_hand.rows(task, rows), **how)


def right(name: str, task: MachinesConfig, batch: Batch) -> torch.Tensor:
    return learners(task)[name].predict(batch).argmax(-1) == batch.at_scored(batch.targets)


@pytest.mark.parametrize("special", [{}, {"relabel": True}, {"defined": 0.7}, {"absorbing": "one"}, {"head": "states"}])
def test_what_was_shown_is_certain_and_true(special: dict):
    task = MachinesConfig(states=4, actions=3, demo_length=10, query_length=30, **special)
    batch = made(task)
    seen, target = batch.at_scored(batch.marks["seen"]), batch.at_scored(batch.targets)
    assert set(seen.tolist()) == {0, 1, 2}
    for name, known in (("look_up", seen > 0), ("look_up_demos", seen == 2), ("query_only", seen < 0)):
        said = learners(task)[name].predict(batch).gather(1, target[:, None])[:, 0]
        assert (said[known] == 0).all() and torch.isfinite(said).all(), name


def test_the_oracle_knows_even_what_nobody_showed():
    for special in ({}, {"outputs": 2}, {"relabel": True}):
        task = MachinesConfig(states=4, actions=2, demo_length=1, query_length=20, **special)
        for free in (False, True):
            batch = made(task, free=free)
            assert right("oracle", task, batch).all()


def test_a_state_shown_as_an_output_is_no_certain_memory():
    """Several states look alike there, so looking up is a vote, with losses that stay finite."""
    task = MachinesConfig(states=5, actions=3, outputs=2)
    batch = made(task)
    said = learners(task)["look_up"].predict(batch)
    assert torch.isfinite(said[:, :2]).all() and (said[:, 2:] == -torch.inf).all()
    assert 0.5 < right("look_up", task, batch).double().mean() < 0.95


def test_demonstrations_alone_know_less_and_running_freely_less_still():
    task = MachinesConfig(states=5, actions=5, demo_length=25, query_length=60)
    forced, free = made(task, 200), made(task, 200, free=True)
    shares = [
        right(name, task, batch).double().mean().item()
        for name, batch in (("look_up", forced), ("look_up_demos", forced), ("look_up_demos", free))
    ]
    assert shares[0] > shares[1] + 0.02 and shares[1] > shares[2] + 0.02
    # Without a wrong answer before, running freely is no different.
    steps = free.at_scored(free.marks["position"])
    hit_forced, hit_free = right("look_up_demos", task, forced), right("look_up_demos", task, free)
    assert torch.equal(hit_forced[steps == 1], hit_free[steps == 1])
    whole = [torch.zeros(200).index_add_(0, b.scored_rows, (~hit).float()) == 0
             for b, hit in ((forced, hit_forced), (free, hit_free))]  # fmt: skip
    assert torch.equal(*whole)


def test_a_machine_whose_pairs_do_not_interact_is_all_that_the_product_needs():
    """Where the action alone decides, p(s'|a) and the product are right once every action was shown."""
    task = MachinesConfig(states=3, actions=3, demo_length=40, query_length=20)
    rows = by_hand.rows(task, 30)
    for n, one in enumerate(rows):
        one.table = [[(a + n) % 3 for a in range(3)]] * 3
        for walk in (*one.demos, one.query):
            for k, action in enumerate(walk[1]):
                walk[0][k + 1] = one.table[walk[0][k]][action]
    batch = by_hand.batch(task, rows)
    assert right("given_action", task, batch).all() and right("naive_bayes", task, batch).all()
    assert right("given_state", task, batch).double().mean() < 0.6
    uniform = learners(task)["uniform"].predict(batch)
    assert uniform[:, :3].exp().allclose(torch.tensor(1 / 3, dtype=torch.float64))
    assert uniform[0, 0] == pytest.approx(-math.log(3)) and (uniform[:, 3:] == -torch.inf).all()


def test_entries_beyond_a_walks_length_mean_nothing():
    task = MachinesConfig(states=3, actions=3, demo_length=10, query_length=10)
    for free in (False, True):
        batch = made(task, 30, free=free)
        e = batch.latents
        before = {name: learner.predict(batch) for name, learner in learners(task).items()}
        for lengths, states, actions in (
            (e.demo_lengths, e.demo_states, e.demo_actions),
            (e.query_lengths, e.query_states, e.query_actions),
        ):
            step = torch.arange(states.shape[-1])
            states[step > lengths[..., None]] = -1
            actions[step[:-1] >= lengths[..., None]] = 99
        for name, learner in learners(task).items():
            assert torch.equal(learner.predict(batch), before[name]), name
