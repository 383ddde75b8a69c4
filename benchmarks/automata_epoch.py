"""An epoch of the published recipe, end to end: 6,000 rows in batches of 8, and its evaluation. One core.

    python benchmarks/automata_epoch.py

`literal` is the obvious loop in the style of the published code: rows tokenised in Python whenever they are read, a
DataLoader, torch's nn.LSTM, the loss asked for at every step, and three passes of evaluation (loss and accuracy on
validation, accuracy on training rows). Ours is what `inlearn run automata preset=…` does: a step of the trainer, and
the evaluator on the sets that every run monitors. Then every model of the zoo at the lengths of 5s5a, in ours alone.

A tenth of an epoch is timed in interleaved rounds; the least is kept and multiplied. Stores results.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from automata_data import Literal
from measuring import print_table, store
from torch import Tensor, nn
from torch.utils.data import DataLoader

from inlearn.core import device as devices
from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer
from inlearn.lab.config import compose

PART, BATCH, WIDTH, LAYERS, SYMBOLS = 10, 8, 64, 2, 21
TRAIN, VALIDATION = 6000, 2000
STEPS = TRAIN // BATCH // PART
ROUNDS, ZOO_STEPS = 3, 6


class PlainLSTM(nn.Module):
    def __init__(self, states: int):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(SYMBOLS, WIDTH), nn.Dropout(0.1)
        self.lstm = nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True, dropout=0.1)
        self.head = nn.Linear(WIDTH, states, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.dropout(self.lstm(self.dropout(self.embedding(inputs)))[0]))


class LiteralRun:
    """A share of 1 / PART of an epoch and of its evaluations."""

    def __init__(self, states: int, actions: int, length: int):
        self.literal = Literal(states, actions, length, length)
        self.train = [self.literal.sample() for _ in range(TRAIN // PART)]
        self.validation = [self.literal.sample() for _ in range(VALIDATION // PART)]
        self.model = PlainLSTM(states)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), 1e-3, weight_decay=0.0)

    def loader(self, samples: list[dict], shuffle: bool = False) -> DataLoader:
        return DataLoader(samples, BATCH, shuffle, collate_fn=self.literal.rows)

    def epoch(self) -> None:
        self.model.train()
        for inputs, targets, mask in self.loader(self.train, True):
            loss = F.cross_entropy(self.model(inputs)[mask], targets[mask])
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            loss.item()
        self.model.eval()
        with torch.no_grad():
            for samples in (self.validation, self.train, self.validation):
                for inputs, targets, mask in self.loader(samples):
                    logits = self.model(inputs)
                    F.cross_entropy(logits[mask], targets[mask]).item()
                    (logits.argmax(-1) == targets)[mask].sum().item()


class OurRun:
    def __init__(self, preset: str, *words: str):
        config = compose(discovery.study("automata"), [f"preset={preset}", *words])
        self.built = build(config)
        self.trainer = build_trainer(self.built)
        self.evaluator = Evaluator(self.built.study, config.seeds.following(config.seed))
        self.predict = predictor(self.trainer.model, self.built.tasks[0], self.built.device)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.trainer.keep_losses(None)  # nobody writes training lines here
            self.trainer.update(self.built.tasks[0])

    def evaluate(self) -> None:
        self.evaluator.learner("model", self.predict)


def seconds(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def against_literal(preset: str, states: int, actions: int, length: int) -> dict[str, Any]:
    literal, ours = LiteralRun(states, actions, length), OurRun(preset)
    ours.steps(2)
    ours.evaluate()  # draws the sets and asks the ideal learners, once a run
    times = [
        (seconds(literal.epoch), seconds(lambda: ours.steps(STEPS)), seconds(ours.evaluate)) for _ in range(ROUNDS)
    ]
    literally, training, evaluating = (min(column) for column in zip(*times, strict=True))
    whole = training * PART + evaluating
    return {
        "setting": preset,
        "literal epoch (s)": literally * PART,
        "ours (s)": whole,
        "of it evaluation (s)": evaluating,
        "times": literally * PART / whole,
    }


def zoo() -> list[dict[str, Any]]:
    """Seconds of an epoch's updates and of its evaluation, each model at its defaults with width 64."""
    rows = []
    for kind in discovery.models():
        ours = OurRun("5s5a", f"model={kind}", f"model.width={WIDTH}")
        ours.steps(1)
        step = min(seconds(lambda ours=ours: ours.steps(ZOO_STEPS)) for _ in range(2)) / ZOO_STEPS
        rows.append(
            {
                "model": kind,
                "parameters": ours.trainer.count,
                "a step (ms)": step * 1e3,
                "updates of an epoch (min)": step * (TRAIN // BATCH) / 60,
            }
        )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    devices.keep_freed_memory()
    compared = [against_literal("3s3a", 3, 3, 19), against_literal("5s5a", 5, 5, 80)]
    print_table(list(compared[0]), [list(row.values()) for row in compared])
    models = zoo()
    print_table(list(models[0]), [list(row.values()) for row in models])
    store("automata_epoch", {"batch": BATCH, "rows": TRAIN, "part": PART, "settings": compared, "zoo at 5s5a": models})


if __name__ == "__main__":
    main()
