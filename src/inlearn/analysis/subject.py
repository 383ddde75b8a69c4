"""What an analysis looks at: a model, others like it, and rows of one evaluation set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from inlearn.core.batch import Batch
from inlearn.core.contract import Study
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.errors import UserError, unknown


@dataclass(frozen=True)
class Subject:
    """`untrained()` is a model of the same shape with initial weights that no training of it began from."""

    study: Study
    model: nn.Module
    untrained: Callable[[], nn.Module]
    seeds: StreamSeeds  # of evaluation sets: every stream follows the seed `eval`
    device: torch.device
    precision: str = "float32"

    def set_name(self, name: str | None) -> str:
        """A set by its name; none: "test" where there is one, else the first that runs are evaluated on."""
        tasks = self.study.tasks
        if name is None:
            return "test" if "test" in tasks else self.study.monitored[0]
        if name not in tasks:
            raise unknown("evaluation set", name, tasks)
        return name

    def batch(self, name: str, rows: int) -> Batch:
        """The first `rows` rows of a set, fewer where it has no more or where that would part rows that belong
        together. UserError for sets on which learners read their own answers: what they read is not known before."""
        together, limit = self.study.rows_together(name), self.study.finite_rows(name)
        rows = rows if limit is None else min(rows, limit)
        whole = self.study.tasks[name].sample(Address(self.seeds, "eval"), max(1, rows // together) * together)
        if whole.feedback is not None:
            raise UserError(f"set = {name}: models read their own answers there; expected a set with given inputs")
        return whole
