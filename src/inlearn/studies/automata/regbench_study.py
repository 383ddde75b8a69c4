"""RegBench as a study: sets, ideal learners and descriptions put together from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from inlearn.core.contract import Reference, Study, Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.spaces import Interface, Tokens
from inlearn.studies.automata.config import AutomataConfig
from inlearn.studies.automata.regbench_config import LETTERS, SYMBOLS
from inlearn.studies.automata.regbench_machines import BUCKETS, DFAs, Rows, draw_of_split, minimal
from inlearn.studies.automata.regbench_measures import REGBENCH_MEASURES, legal, loss, total_variation
from inlearn.studies.automata.regbench_references import BackOff, Oracle, Uniform
from inlearn.studies.automata.regbench_tasks import FinitePrompts, FreshPrompts, separated
from inlearn.studies.automata.stored import place_of

_DESCRIBED_ROWS = 64
_ORDERS = (3, 2, 1)


class RegBenchStudy(Study):
    """Evaluation sets:

    - "train": the training distribution; with `data=cached` its rows themselves. Monitored.
    - "validation", "test": words of DFAs of these splits, which no training ever sees. The first is monitored.

    With `data=cached` rows are those of `data.seed`, and always have the same words.
    """

    measures = REGBENCH_MEASURES
    monitored = ("train", "validation")

    def __init__(self, config: AutomataConfig, seeds: StreamSeeds, batch: int | None = None):
        self.config, self.seeds = config, seeds
        law, data = config.task, config.data
        interface = Interface(Tokens(SYMBOLS), Tokens(SYMBOLS, among=LETTERS), law.length)
        place = place_of(data.seed) if data.kind == "cached" else None
        self.tasks: dict[str, Task] = {split: FreshPrompts(interface, law, split, place) for split in BUCKETS}
        for split in BUCKETS:  # refuses now what cannot be drawn
            draw_of_split(Rows.following(place or Address(seeds, "eval"), split, 1), law)
        if place is not None:
            self.tasks["train"] = FinitePrompts(interface, law, place, data.train, batch)

    def references(self, name: str) -> Sequence[Reference]:
        return Oracle(), *(BackOff(order) for order in _ORDERS), Uniform()

    def evaluation_rows(self, name: str) -> int:
        data, rows = self.config.data, self.config.evaluation.rows
        if data.kind != "cached":
            return rows
        return min(rows, data.train) if name == "train" else getattr(data, name)

    def finite_rows(self, name: str) -> int | None:
        data = self.config.data
        return data.train if name == "train" and data.kind == "cached" else None

    def prepare(self, say: Callable[[str], None]) -> None:
        say("nothing to prepare: the rows are drawn when they are needed")

    def describe(self) -> Iterable[tuple[str, Any]]:
        yield "The problem", [{"fact": fact, "value": value} for fact, value in self._facts().items()]
        yield (
            "Evaluation sets",
            [{"set": n, "rows": self.evaluation_rows(n), "monitored": n in self.monitored} for n in self.tasks],
        )
        batch = self.tasks["test"].sample(Address(self.seeds, "eval"), _DESCRIBED_ROWS)
        yield f"Nodes of {_DESCRIBED_ROWS} test DFAs, as drawn and at least", _sizes(batch.latents.dfas)
        yield (
            f"Ideal learners on {_DESCRIBED_ROWS} test rows",
            [self._scores(r, batch) for r in self.references("test")],
        )
        yield "The edges of the first test DFA, in its minimal form", _edges(minimal(batch.latents.dfas[:1]))
        words = separated(batch.inputs[0].tolist()).split("|")
        yield (
            "Its words (the last one without its last letter)",
            [{"word": i, "letters": w} for i, w in enumerate(words, 1)],
        )

    def _facts(self) -> dict[str, Any]:
        law, data = self.config.task, self.config.data
        return {
            "symbols": f"{LETTERS} letters, separator, padding",
            "nodes of a DFA before minimisation": "{} to {}".format(*law.nodes),
            "letters of its alphabet": "{} to {}".format(*law.letters),
            "edges of a node": "{} to {}".format(*law.edges),
            "letters of a word": "{} to {}".format(*law.word_length),
            "words of a row": "{} to {}".format(*law.words),
            "length of a row": law.length,
            "training DFAs": f"{data.train:,}" if data.kind == "cached" else "always new",
        }

    def _scores(self, reference: Reference, batch: Any) -> dict[str, Any]:
        space, prediction = self.interface.outputs, reference.predict(batch)
        found = {"loss (nats)": loss, "accuracy": legal, "total variation": total_variation}
        means = {name: round(f(batch, space, prediction).mean().item(), 4) for name, f in found.items()}
        return {"learner": reference.name, **means}

    def charts(self, evaluations: Any, labels: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        from inlearn.studies.automata.regbench_charts import charts

        return charts(evaluations)


def _sizes(drawn: DFAs) -> list[dict[str, Any]]:
    least = minimal(drawn).nodes
    counts = [torch.bincount(nodes, minlength=drawn.letters.shape[1] + 1) for nodes in (drawn.nodes, least)]
    used = (counts[0] + counts[1]).nonzero().squeeze(-1).tolist()
    return [{"nodes": n, "as drawn": int(counts[0][n]), "minimal": int(counts[1][n])} for n in used]


def _edges(dfa: DFAs) -> list[dict[str, Any]]:
    table = []
    for node in range(int(dfa.nodes[0])):
        pairs = zip(dfa.letters[0, node].tolist(), dfa.targets[0, node].tolist(), strict=True)
        edges = ", ".join(f"{chr(ord('a') + letter)} to {target}" for letter, target in pairs if letter < LETTERS)
        table.append({"node": node, "edges": edges})
    return table
