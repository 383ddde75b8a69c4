"""In-context linear regression: evaluation sets, ideal learners and figures put together from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Bound, Reference, Study, Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.spaces import Interface, Vectors
from inlearn.studies.regression import measures, quantities
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.probing import probe_targets
from inlearn.studies.regression.references import DMMSE, MEBIBYTE, FirstExample, Ridge, TaskMean, Zero
from inlearn.studies.regression.tasks import (
    Dataset,
    Discrete,
    EffectiveWeight,
    Gains,
    Gaussian,
    Prior,
    Regression,
    Source,
    task_vectors,
)

SWEEP = tuple(10 ** (-2.5 + 7 * i / 99) for i in range(100))
_DESCRIBED_ROWS = 20_000
_DESCRIBED_ANSWERS = 1 << 31  # times task vectors: about ten seconds of a description


class RegressionStudy(Study):
    """Evaluation sets (monitored unless said otherwise):

    - "train": the training distribution. With finite `task.sequences` it is those sequences themselves, and
      "heldout" is new ones of the same distribution.
    - "gaussian": fresh tasks from the Gaussian prior. Only where training has other tasks; else it would be "train".
    - "input_gains", "task_gains": training tasks with inputs or task vectors scaled by each of `evaluation.gains`.
    - "input_sweep", "task_sweep": the same under 100 gains from 10^-2.5 to 10^4.5; on demand.
    - "effective_weight": what would be answered along every axis at every position; on demand.
    """

    def __init__(self, config: RegressionConfig, seeds: StreamSeeds, batch: int | None = None):
        self.config, self.seeds = config, seeds
        task, evaluation = config.task, config.evaluation
        self.vectors = _vectors(config, seeds)
        gaussian = Gaussian(task.dimension, task.prior_variance)
        self.prior: Prior = gaussian if self.vectors is None else Discrete(self.vectors)
        shape = (task.examples, task.dimension, task.noise_variance)
        fresh = Source(self.prior, *shape)
        endless = task.sequences == "inf"
        source = fresh if endless else Dataset(self.prior, *shape, seeds=seeds, size=task.sequences, batch=batch)

        outputs = Vectors(1) if config.outputs == "answer" else Vectors(task.dimension + 1, answers=1)
        interface = Interface(Vectors(task.dimension + 1), outputs, 2 * task.examples)
        self.tasks: dict[str, Task] = {"train": Regression(interface, source)}
        if not endless:
            self.tasks["heldout"] = Regression(interface, fresh)
        if self.vectors is not None:
            self.tasks["gaussian"] = Regression(interface, Source(gaussian, *shape))
        self.tasks["input_gains"] = Gains(interface, fresh, evaluation.gains, "inputs")
        self.tasks["task_gains"] = Gains(interface, fresh, evaluation.gains, "tasks")
        self.monitored = tuple(self.tasks)
        self.tasks["input_sweep"] = Gains(interface, fresh, SWEEP, "inputs")
        self.tasks["task_sweep"] = Gains(interface, fresh, SWEEP, "tasks")
        self.tasks["effective_weight"] = EffectiveWeight(interface, fresh, task.dimension**0.5)

        self.measures = [
            *measures.measures(evaluation.gains, SWEEP, self._power),
            *measures.in_context_scores(task.examples),
            *measures.gain_scores(evaluation.gains, task.examples),
        ]
        self.bounds = [Bound("label noise", "squared error", "s²", task.noise_variance)]

    def _power(self, gain: float) -> float:
        """E y² under a gain: scaling the inputs or the task vectors comes to the same."""
        return gain**2 * self.prior.second_moment + self.config.task.noise_variance

    def references(self, name: str) -> Sequence[Reference]:
        """The same learners on every set: what they know is the training distribution, not the set."""
        task = self.config.task
        learners: list[Reference] = [Ridge(task.noise_variance / task.prior_variance)]
        if self.vectors is not None:
            memory = self.config.evaluation.memory * MEBIBYTE
            learners.append(DMMSE(self.vectors, task.noise_variance, memory))
            learners.append(TaskMean(self.vectors.double().mean(0)))
        return [*learners, Zero(), FirstExample()]

    def evaluation_rows(self, name: str) -> int:
        task, evaluation = self.config.task, self.config.evaluation
        if name in measures.PROBES:
            return evaluation.probe_rows * task.examples * task.dimension
        if name in (*measures.GAINS, *measures.SWEEPS):
            return evaluation.gain_rows * len(self.tasks[name].labels["gain"])
        if name == "train" and task.sequences != "inf":
            return min(evaluation.rows, task.sequences)
        return evaluation.rows

    def finite_rows(self, name: str) -> int | None:
        sequences = self.config.task.sequences
        return sequences if name == "train" and sequences != "inf" else None

    def rows_together(self, name: str) -> int:
        """The D answers along the axes make one effective weight."""
        return self.config.task.dimension if name in measures.PROBES else 1

    def floors(self, rows: int) -> dict[str, Tensor]:
        """Per reference learner the mean squared error (K,) at each position of `rows` sequences of "train"."""
        batch = self.tasks["train"].sample(Address(self.seeds, "eval"), rows)
        target = batch.at_scored(batch.targets).double()
        found = {}
        for reference in self.references("train"):
            errors = (reference.predict(batch) - target).square()
            found[reference.name] = errors.view(rows, -1).mean(0)
        return found

    def probe_targets(self, batch: Batch) -> Mapping[str, Tensor]:
        return probe_targets(batch)

    def describe(self) -> Iterable[tuple[str, Any]]:
        task = self.config.task
        yield "The problem", self._facts()
        yield (
            "Evaluation sets",
            [{"set": n, "rows": self.evaluation_rows(n), "monitored": n in self.monitored} for n in self.tasks],
        )
        answers = task.examples * (1 if self.vectors is None else len(self.vectors))
        known = _DESCRIBED_ROWS if task.sequences == "inf" else task.sequences
        rows = max(1, min(_DESCRIBED_ROWS, known, _DESCRIBED_ANSWERS // answers))
        floors = self.floors(rows)
        table = [
            {"example": k + 1} | {name: round(values[k].item(), 4) for name, values in floors.items()}
            for k in range(task.examples)
        ]
        table.append({"example": "mean"} | {name: round(values.mean().item(), 4) for name, values in floors.items()})
        yield f"Squared error of the ideal learners on {rows:,} sequences", table
        yield "Squared error along the context", _floor_chart(floors)

    def _facts(self) -> list[dict[str, Any]]:
        task = self.config.task
        facts = {
            "dimension D": task.dimension,
            "examples K": task.examples,
            "tokens of a sequence": 2 * task.examples,
            "task distribution": task.distribution,
            "task vectors M": "inf" if self.vectors is None else len(self.vectors),
            "prior variance τ²": task.prior_variance,
            "mean squared length of a task vector": round(self.prior.second_moment, 4),
            "noise variance s²": task.noise_variance,
            "different sequences": task.sequences,
            "squared error of answering 0": round(self._power(1.0), 4),
        }
        return [{"fact": fact, "value": value} for fact, value in facts.items()]

    def charts(self, evaluations: Any, labels: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        from inlearn.studies.regression.charts import charts

        return charts(evaluations, labels)

    def quantities(self) -> Mapping[str, Callable[..., float]]:
        """With this study's own numbers, unless a claim gives others."""
        task = self.config.task
        problem = {
            "dimension": task.dimension,
            "noise_variance": task.noise_variance,
            "prior_variance": task.prior_variance,
        }
        sequence = problem | {"examples": task.examples}
        return {
            "zero_loss": partial(quantities.zero_loss, **problem),
            "ridge_floor": partial(quantities.ridge_floor, **sequence),
            "ridge_floor_at": partial(quantities.ridge_floor_at, **sequence),
            "ridge_loss": partial(quantities.ridge_loss, **sequence),
        }


def _vectors(config: RegressionConfig, seeds: StreamSeeds) -> Tensor | None:
    """(M, D) the training task vectors; None where every sequence has its own."""
    task = config.task
    if task.vector is not None:
        return torch.tensor([task.vector], dtype=torch.float32)
    if task.count == "inf":
        return None
    return task_vectors(seeds, task.count, task.dimension, task.prior_variance)


def _floor_chart(floors: Mapping[str, Tensor]) -> Any:
    """The ideal learners' floors along the context, as the reports draw them."""
    import pandas as pd

    from inlearn.charts.positions import loss_per_position

    line = {"run": "", "step": pd.NA, "set": "train", "measure": "loss", "reference": None, "unit": "squared error"}
    rows = [
        line | {"learner": name, "by": "position", "level": (k,), "mean": value, "se": float("nan")}
        for name, values in floors.items()
        for k, value in enumerate(values.tolist())
    ]
    return loss_per_position(pd.DataFrame(rows), "train")
