"""A study in a single file, as a user would bring one: read a table from the context, answer about one of its cells.

Rows share their context: a prefix of `cells` symbols, then `queries` rows each asking for one cell. It exercises what
later studies need of the contract: tokens, prefixes, marks, one-hot references, an environment.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from inlearn.core.configuration import StudyConfig

if TYPE_CHECKING:
    from inlearn.core.contract import Study


class LookupConfig(StudyConfig):
    """Answering about cells of a table in the context."""

    kind: Literal["lookup"] = "lookup"
    cells: PositiveInt = 3
    symbols: PositiveInt = 4
    queries: PositiveInt = 2

    def build(self, seeds, batch=None) -> Study:
        return make_study(self)


PRESETS = {"small": {"about": "two cells", "study": {"cells": 2}, "model": {"width": 16, "layers": 1, "heads": 2}}}


def make_study(config: LookupConfig) -> Study:
    import torch

    from inlearn.core import draws
    from inlearn.core.batch import Batch
    from inlearn.core.contract import Measure, Study
    from inlearn.core.spaces import Interface, Tokens

    size = config.symbols + config.cells

    class Lookup:
        interface = Interface(Tokens(size), Tokens(config.symbols), config.cells + 1)
        labels = MappingProxyType({})

        def sample(self, at, rows, first=0):
            share = config.queries
            tables = draws.integers(at.key("table"), -(-rows // share), config.symbols, (config.cells,), first // share)
            cell = draws.integers(at.key("cell"), rows, config.cells, first=first)
            row = torch.arange(rows)
            target = tables[row // share, cell]
            return Batch(
                (config.symbols + cell)[:, None], target[:, None], torch.ones(rows, 1), tables, {"cell": cell}, tables
            )

    class Table:
        name, mechanism = "table", "context"

        def predict(self, batch):
            cell = batch.inputs[batch.scored_rows, 0] - config.symbols
            answer = batch.prefix[batch.scored_rows // config.queries, cell]
            return torch.nn.functional.one_hot(answer, config.symbols).double().log()

    class Uniform:
        name, mechanism = "uniform", "none"

        def predict(self, batch):
            return torch.full((len(batch.scored), config.symbols), 1 / config.symbols, dtype=torch.float64).log()

    class LookupStudy(Study):
        tasks = MappingProxyType({"train": Lookup(), "again": Lookup()})
        measures = (
            Measure("loss", "nats", "-log p(answer)", lambda b, s, p: s.loss(p, b.at_scored(b.targets)), (("cell",),)),
            Measure("accuracy", "share", "argmax is the answer",
                    lambda b, s, p: (p.argmax(-1) == b.at_scored(b.targets)).double(), (("cell",),)),
        )  # fmt: skip

        def references(self, name):
            return (Table(), Uniform())

        def evaluation_rows(self, name):
            return 64

        def rows_together(self, name):
            return config.queries

        def environments(self):
            return {"table": Answering(config.symbols)}

    class Answering:
        """Says symbol 0 after every question, then lets the model go on once, then ends the row."""

        def __init__(self, symbols):
            self.symbols = symbols

        def reply(self, row, tokens):
            if tokens[-1] >= self.symbols:
                return [0]
            return [] if tokens[-2] >= self.symbols else None

    return LookupStudy()
