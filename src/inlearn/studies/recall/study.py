"""Multi-query associative recall: sets, ideal learners and descriptions put together from a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Reference, Study, Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.spaces import Interface, Tokens
from inlearn.studies.recall.config import RecallConfig
from inlearn.studies.recall.measures import MEASURES
from inlearn.studies.recall.probing import probe_targets
from inlearn.studies.recall.references import LookUp, Uniform, Values
from inlearn.studies.recall.tasks import Recall

_DESCRIBED_ROWS = 1000  # of each number of pairs


class RecallStudy(Study):
    """Evaluation sets, both monitored:

    - "train": the training distribution.
    - "pairs": each of `evaluation.pairs` in turn, beyond those of training too. Row r has the r-th number, in circles.
    """

    measures = MEASURES

    def __init__(self, config: RecallConfig, seeds: StreamSeeds):
        self.config, self.seeds = config, seeds
        task = config.task
        symbols = Tokens(task.vocabulary)
        interface = Interface(symbols, symbols, task.length)
        law = (task.power, task.passes, task.filler)
        self.tasks: dict[str, Task] = {
            "train": Recall(interface, task.counts, *law),
            "pairs": Recall(interface, config.evaluated_pairs, *law, in_turn=True),
        }
        self.monitored = tuple(self.tasks)

    def references(self, name: str) -> Sequence[Reference]:
        size = self.config.task.vocabulary
        return LookUp(size), Values(size), Uniform(size)

    def evaluation_rows(self, name: str) -> int:
        evaluation = self.config.evaluation
        return evaluation.rows if name == "train" else evaluation.pair_rows * len(self.config.evaluated_pairs)

    def probe_targets(self, batch: Batch) -> Mapping[str, Tensor]:
        return probe_targets(batch)

    def describe(self) -> Iterable[tuple[str, Any]]:
        task = self.config.task
        facts = {
            "symbols V": task.vocabulary,
            "keys": f"1 to {task.vocabulary // 2 - 1}",
            "values": f"{task.vocabulary // 2} to {task.vocabulary - 1}",
            "length of a row": task.length,
            "pairs of a training row": ", ".join(map(str, task.counts)),
            "most pairs that fit": task.capacity,
            "times the context shows its pairs": task.passes,
            "power a of the gaps": task.power,
            "filler": task.filler,
        }
        yield "The problem", [{"fact": fact, "value": value} for fact, value in facts.items()]
        yield (
            "Evaluation sets",
            [{"set": n, "rows": self.evaluation_rows(n), "monitored": n in self.monitored} for n in self.tasks],
        )
        yield (
            "Loss of the ideal learners (nats)",
            [
                {"pairs": count, "look up": 0.0, "values": round(math.log(count), 4),
                 "uniform": round(math.log(task.vocabulary - task.vocabulary // 2), 4)}
                for count in self.config.evaluated_pairs
            ],
        )  # fmt: skip
        yield "Share of questions by the gap to their key, from a power of two up to the next", self._gaps()

    def _gaps(self) -> list[dict[str, Any]]:
        """How far back keys lie, for every number of pairs of set "pairs"."""
        counts = self.config.evaluated_pairs
        batch = self.tasks["pairs"].sample(Address(self.seeds, "eval"), _DESCRIBED_ROWS * len(counts))
        gap, pairs = batch.at_scored(batch.marks["gap"]), batch.at_scored(batch.marks["pairs"])
        powers = [1 << power for power in range(1, int(gap.max()).bit_length())]
        table = []
        for count in counts:
            own = gap[pairs == count]
            shares = {f"{power}+": round(torch.mean((own == power).double()).item(), 3) for power in powers}
            table.append({"pairs": count, **shares})
        return table

    def charts(self, evaluations: Any, labels: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        from inlearn.studies.recall.charts import charts

        return charts(evaluations)
