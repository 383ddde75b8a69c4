"""10,000 rows of automata: drawn here, all at once, and by the obvious loops over Python's dictionaries and lists.

    python benchmarks/automata_data.py          both, each in turn, and benchmarks/results/automata_data.json

Both make what training reads of 10,000 new machines: symbols, targets and which positions are asked. Then both go once
through 6,000 rows that exist already, in batches of 8 with three demonstrations chosen anew, as training does.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import torch
from measuring import print_table, store
from torch import Tensor

from inlearn.core import device as devices
from inlearn.core.draws import Address
from inlearn.lab.config import Seeds
from inlearn.studies.automata.config import MAX_STATES, CachedConfig, MachinesConfig
from inlearn.studies.automata.stored import Finite, drawn, place_of
from inlearn.studies.automata.study import interface_of
from inlearn.studies.automata.tasks import Machines

ROWS, EPOCH, BATCH, LITERAL_ROWS, ROUNDS = 10_000, 6000, 8, 400, 5
ACCESSES = 16_000  # rows that the published trainer tokenises an epoch: three passes of evaluation make theirs anew
SEEDS = Seeds().following(0)
EOS, QUERY, PAD = 18, 19, 20
SETTINGS = {
    "3s3a": MachinesConfig(states=3, actions=3),
    "5s5a": MachinesConfig(states=5, actions=5),
    "5s8a": MachinesConfig(states=5, actions=8, demo_length=70),
    "8s8a": MachinesConfig(states=8, actions=8, demo_length=80),
}


class Literal:
    """The obvious form, in the style of the published code: a dictionary a machine, a list a walk, a row at a time."""

    def __init__(self, states: int, actions: int, demo: int, query: int, seed: int = 42):
        self.states, self.actions, self.demo, self.query = states, actions, demo, query
        self.random = random.Random(seed)

    def machine(self) -> dict[int, dict[int, int]]:
        table: dict[int, dict[int, int]] = {state: {} for state in range(self.states)}
        attached, left = [0], list(range(1, self.states))
        names = [MAX_STATES + action for action in range(self.actions)]
        while left:
            source = self.random.choice(attached)
            free = [action for action in names if action not in table[source]]
            if not free:
                continue
            new = left.pop(self.random.randrange(len(left)))
            table[source][self.random.choice(free)] = new
            attached.append(new)
        for state in range(self.states):
            for action in names:
                if action not in table[state]:
                    table[state][action] = self.random.randrange(self.states)
        return table

    def walk(self, table: dict[int, dict[int, int]], start: int, length: int) -> dict[str, list[int]]:
        length = max(1, int(length * (1 + self.random.uniform(-0.2, 0.2))))
        states, actions = [start], []
        for _ in range(length):
            action = self.random.choice(list(table[states[-1]]))
            actions.append(action)
            states.append(table[states[-1]][action])
        return {"states": states, "actions": actions}

    def sample(self) -> dict:
        table = self.machine()
        demos = [self.walk(table, state, self.demo) for state in range(self.states)]
        return {"fsm": table, "demos": demos, "query": self.walk(table, self.random.randrange(self.states), self.query)}

    def row(self, sample: dict) -> tuple[list[int], list[bool]]:
        symbols, asked, query = [], [], sample["query"]
        for demo in self.random.sample(sample["demos"], 3):
            for state, action in zip(demo["states"], [*demo["actions"], EOS], strict=True):
                symbols += [state, action]
                asked += [False, False]
        symbols.append(QUERY)
        asked.append(False)
        for step, (state, action) in enumerate(zip(query["states"], [*query["actions"], EOS], strict=True)):
            symbols += [state, action]
            asked += [step > 0, False]
        return symbols, asked

    def rows(self, samples: list[dict]) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and masks (count, T), padded."""
        drawn = [self.row(sample) for sample in samples]
        longest = max(len(symbols) for symbols, _ in drawn)
        inputs, targets, masks = [], [], []
        for symbols, asked in drawn:
            pad = longest - len(symbols)
            inputs.append(torch.tensor([symbols[0], *symbols[:-1]] + [PAD] * pad))
            targets.append(torch.tensor(symbols + [PAD] * pad))
            masks.append(torch.tensor(asked + [False] * pad))
        return torch.stack(inputs), torch.stack(targets), torch.stack(masks)


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, which a busy machine shares out but does not lengthen much."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, config: MachinesConfig) -> dict[str, object]:
    interface = interface_of(config, config.length)
    task = Machines(interface, config, "train")
    literal = Literal(config.states, config.actions, config.walk(config.demo_length), config.walk(config.query_length))
    data = CachedConfig(train=EPOCH, validation=1, test=1)
    rows, _ = drawn(config, data)
    finite = Finite(interface, rows, "train", 0, EPOCH, config.demos, config.length, place_of(42), batch=BATCH)
    samples = [literal.sample() for _ in range(LITERAL_ROWS)]

    def epoch() -> None:
        for step in range(EPOCH // BATCH):
            finite.sample(Address(SEEDS, "data", step), BATCH)

    def literal_epoch() -> None:
        for first in range(0, LITERAL_ROWS, BATCH):
            literal.rows(samples[first : first + BATCH])

    times: dict[str, list[float]] = {}
    for turn in range(ROUNDS):  # interleaved, so that a busy machine disturbs all alike
        for what, work, share in (
            ("new rows", lambda turn=turn: task.sample(Address(SEEDS, "data", turn), ROWS), 1),
            ("literal new rows", lambda: literal.rows([literal.sample() for _ in range(LITERAL_ROWS)]),
             ROWS / LITERAL_ROWS),
            ("an epoch", epoch, 1),
            ("literal epoch", literal_epoch, EPOCH / LITERAL_ROWS),
        ):  # fmt: skip
            times.setdefault(what, []).append(seconds(work) * share)
    best = {what: min(values) for what, values in times.items()}
    symbols = int((task.sample(Address(SEEDS, "data"), ROWS).inputs != PAD).sum())
    literally = sum(len(literal.row(sample)[0]) for sample in samples) / LITERAL_ROWS
    assert math.isclose(symbols / ROWS, literally, rel_tol=0.05)  # both make as much
    return {
        "setting": name,
        "symbols a row": symbols / ROWS,
        **{f"{what} (s)": value for what, value in best.items()},
        "new rows, times": best["literal new rows"] / best["new rows"],
        "epoch, times": best["literal epoch"] / best["an epoch"],
        "epoch with evaluations, times": best["literal epoch"] * ACCESSES / EPOCH / best["an epoch"],
    }


def main() -> None:
    torch.set_num_threads(1)
    devices.keep_freed_memory()  # as runs do
    results = [measure(name, config) for name, config in SETTINGS.items()]
    print_table(list(results[0]), [list(row.values()) for row in results])
    about = {
        "new rows": ROWS,
        "rows of an epoch": EPOCH,
        "batch": BATCH,
        "rounds": ROUNDS,
        "literal rows": LITERAL_ROWS,
    }
    store("automata_data", {**about, "settings": results})


if __name__ == "__main__":
    main()
