"""In-context learning of finite automata: sets, ideal learners and descriptions put together from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Reference, Study, Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.studies.automata import stored
from inlearn.studies.automata.config import MAX_STATES, SYMBOLS, AutomataConfig, FileConfig, MachinesConfig
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.header import Header, read_header
from inlearn.studies.automata.machines import SPLITS, Law, absorbing, odds, reached
from inlearn.studies.automata.measures import MEASURES
from inlearn.studies.automata.probing import probe_targets
from inlearn.studies.automata.references import references
from inlearn.studies.automata.stored import Finite, Pinned
from inlearn.studies.automata.tasks import Machines

_DESCRIBED_ROWS = 2000


class AutomataStudy(Study):
    """Evaluation sets:

    - "train" (monitored): the training distribution. With finite data its rows, each with the same demonstrations
      every time.
    - "validation" (monitored), "test": machines that are never trained on, nor shared.
    - "free": the first `evaluation.free_rows` rows of "test", where learners read what they answered themselves.
    - "query_L" for each L of `evaluation.query_lengths`: the rows of "test" with queries of about L actions.
    """

    measures = MEASURES

    def __init__(self, config: AutomataConfig, seeds: StreamSeeds, batch: int | None = None):
        self.config, self.seeds = config, seeds
        self._finite: Header | None = None
        self.tasks: dict[str, Task] = self._rows(batch)
        self.monitored = ("train", "validation")

    def _rows(self, batch: int | None) -> dict[str, Task]:
        config, task, data = self.config, self.config.task, self.config.data
        dense = config.supervision == "dense"
        longer = {f"query_{length}": _asking(task, length) for length in config.evaluation.query_lengths}
        interface = interface_of(task, max(each.length for each in (task, *longer.values())))
        if data.kind == "file":
            rows, self._finite = imported(data, task)
            place = stored.place_of(0)
        else:
            odds(Law.of(task))  # refuses what cannot be drawn
            place = stored.place_of(data.seed) if data.kind == "cached" else None
        if data.kind == "cached":
            rows, self._finite = stored.cached(task, data)
        sets: dict[str, Task] = {}
        if self._finite is None:
            sets = {split: Machines(interface, task, split) for split in SPLITS}
            sets["train"] = replace(sets["train"], dense=dense)
        else:
            first = 0
            for split, count in zip(SPLITS, self._finite.splits, strict=True):
                sets[split] = Finite(interface, rows, split, first, count, task.demos, task.length, place)
                first += count
            sets["train"] = replace(sets["train"], batch=batch, dense=dense)
        sets["free"] = replace(sets["test"], free=True)
        return sets | {name: Machines(interface, own, "test", place=place) for name, own in longer.items()}

    def references(self, name: str) -> Sequence[Reference]:
        return references(self.config, name)

    def evaluation_rows(self, name: str) -> int:
        evaluation = self.config.evaluation
        if self._finite is None:
            return evaluation.free_rows if name == "free" else evaluation.rows
        train, validation, test = self._finite.splits
        of_set = {"train": min(evaluation.rows, train), "validation": validation, "test": test}
        return of_set.get(name, min(evaluation.free_rows, test) if name == "free" else evaluation.rows)

    def finite_rows(self, name: str) -> int | None:
        if self._finite is None:
            return None
        return dict(zip((*SPLITS, "free"), (*self._finite.splits, self._finite.splits[-1]), strict=True)).get(name)

    def probe_targets(self, batch: Batch) -> Mapping[str, Tensor]:
        return probe_targets(batch)

    def prepare(self, say: Callable[[str], None]) -> None:
        task, data = self.config.task, self.config.data
        if data.kind != "cached":
            return super().prepare(say)
        path = stored.path_of(task, data)
        there = path.exists()
        rows, header = stored.cached(task, data)
        if not there:
            stored.write(path, rows, header)
        counts = " + ".join(f"{count:,}" for count in header.splits)
        say(f"{path}: {counts} rows for training, validation and test{', there already' if there else ''}")

    def describe(self) -> Iterable[tuple[str, Any]]:
        from inlearn.studies.automata.drawing import drawn

        task = self.config.task
        facts = {
            "states S": task.states,
            "actions A": task.actions,
            "demonstrations in a row": task.demos,
            "actions of a demonstration": f"{task.walk(task.demo_length)} ± {task.jitter:.0%}",
            "actions of a query": f"{task.walk(task.query_length)} ± {task.jitter:.0%}",
            "symbols of a row, at most": task.length,
            "rows of an epoch": self.config.rows_an_epoch or "endless",
            "questions trained on": self.config.supervision,
        }
        yield "The problem", [{"fact": fact, "value": value} for fact, value in facts.items()]
        yield (
            "Evaluation sets",
            [{"set": n, "rows": self.evaluation_rows(n), "monitored": n in self.monitored} for n in self.tasks],
        )
        rows = min(_DESCRIBED_ROWS, self.evaluation_rows("train") if self._finite else _DESCRIBED_ROWS)
        batch = self.tasks["train"].sample(Address(Pinned(self.seeds.eval), "eval"), rows)
        yield f"Machines of {rows:,} training rows", _statistics(batch.latents)
        yield from drawn(batch.latents)

    def charts(self, evaluations: Any, labels: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        from inlearn.studies.automata.charts import charts

        return charts(evaluations)

    def quantities(self) -> Mapping[str, Callable[..., float]]:
        from inlearn.studies.automata.quantities import QUANTITIES

        return QUANTITIES


def interface_of(task: MachinesConfig, length: int) -> Interface:
    """Answers are states alone: one of 8, of which a row's machine may have fewer, or of as many as it has."""
    shown = task.outputs or task.states
    if task.head == "states":
        answers = Tokens(task.states, None if shown == task.states else shown)
    else:
        answers = Tokens(MAX_STATES, None if task.relabel or shown == MAX_STATES else shown)
    return Interface(Tokens(SYMBOLS), answers, length)


def _asking(task: MachinesConfig, length: int) -> MachinesConfig:
    """The task with longer queries."""
    return task.model_copy(update={"query_length": length})


def imported(data: FileConfig, task: MachinesConfig) -> tuple[Episodes, Header]:
    """The rows of a file, which must be such as the task says."""
    rows, header = stored.imported(Path(data.path), read_header(data.path).fingerprint)
    states, actions = rows.table.shape[-2:]
    for key, asked, there in (("states", task.states, states), ("actions", task.actions, actions)):
        if asked != there:
            raise UserError(f"task.{key} = {asked}, but machines of {data.path} have {there}")
    if task.demos > (there := rows.demo_lengths.shape[-1]):
        raise UserError(f"task.demos = {task.demos}, but rows of {data.path} have {there} demonstrations")
    for key, given in (("demo", task.demo_length), ("query", task.query_length)):
        longest, fits = int(getattr(rows, f"{key}_lengths").max()), task.longest(given)
        if longest > fits:
            raise UserError(
                f"{data.path} has walks of {longest} actions, but task.{key}_length = {task.walk(given)} with "
                f"task.jitter = {task.jitter} allows {fits}; expected task.{key}_length={longest}"
            )
    table = rows.table.long()
    count = absorbing(table).sum(-1)
    for demand, holds in (
        ("absorbing = none", task.absorbing != "none" or bool((count == 0).all())),
        ("absorbing = one", task.absorbing != "one" or bool((count == 1).all())),
        ("connected = true", not task.connected or bool(reached(table).all())),
    ):
        if not holds:
            raise UserError(f"task.{demand} is not true of all machines of {data.path}; expected the default")
    return rows, header


def _statistics(episodes: Episodes) -> list[dict[str, Any]]:
    table = episodes.table
    own = torch.arange(table.shape[-2])[:, None]
    values = {
        "strongly connected": reached(table).flatten(1).all(1),
        "with an absorbing state": absorbing(table).any(1),
        "all states reached from state 0": reached(table)[:, 0].all(1),
        "loops of a state (actions that stay)": (table == own).sum((1, 2)) / table.shape[-2],
        "actions of the demonstrations": episodes.demo_lengths.sum(1),
        "actions of the query": episodes.query_lengths,
    }
    return [{"of a machine": name, "mean": round(value.double().mean().item(), 4)} for name, value in values.items()]
