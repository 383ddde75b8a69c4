"""The attention analysis: every head by every kind of position, beside an untrained network and even attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlearn.analysis.attention.config import AttentionConfig
from inlearn.analysis.attention.kinds import kinds
from inlearn.analysis.results import Result
from inlearn.analysis.subject import Subject
from inlearn.core.batch import Batch
from inlearn.core.device import autocast
from inlearn.core.errors import UserError
from inlearn.models import activations
from inlearn.models.forward import outputs_at_scored
from inlearn.statistics.ratios import Ratio, ratio_interval

PATTERN = ".attention.pattern"
PASS = 1 << 26  # numbers of patterns that one forward pass may leave


class AttentionMethod:
    """What an AttentionConfig builds: `run` computes, `tables` and `figures` show any result, also a stored one."""

    def __init__(self, config: AttentionConfig, say: Callable[[str], None]):
        self.config, self.say = config, say

    def run(self, subject: Subject) -> Result:
        """UserError for models without attention patterns and rows that are no symbols."""
        names = [name for name in activations.names(subject.model) if name.endswith(PATTERN)]
        if not names:
            raise UserError("this model has no attention pattern: expected a transformer")
        name = subject.set_name(self.config.set)
        batch = subject.batch(name, self.config.rows)
        if batch.inputs.is_floating_point():
            raise UserError(f"set '{name}' has rows of vectors; matches are told from symbols")
        networks = {"trained": subject.model}
        if self.config.controls:
            networks["untrained"] = subject.untrained()
        together = subject.study.rows_together(name)
        found = {
            network: _shares(model, batch, together, names, self.config.orders, subject)
            for network, model in networks.items()
        }
        return _result(found, {"set": name, "rows": batch.rows, "questions": len(batch.scored)})

    def tables(self, result: Result) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
        """(title, columns, rows) for a terminal."""
        from inlearn.analysis.attention.shown import tables

        return tables(result)

    def figures(self, result: Result) -> Iterable[tuple[str, str, Any]]:
        """(title, caption, chart)."""
        from inlearn.analysis.attention.shown import figures

        return figures(result)


Shares = dict[tuple[str, str], Ratio]  # (head, kind), and ("even", kind) for attention spread over all positions


def _shares(
    model: nn.Module, batch: Batch, together: int, names: Sequence[str], orders: Sequence[int], subject: Subject
) -> Shares:
    """The mean attention to positions of a kind, over questions that have such positions, with intervals over rows."""
    sums: dict[tuple[str, str], list[Tensor]] = {}  # of every row: attention, and how many questions
    counted: dict[str, list[Tensor]] = {}
    for part, symbols in _parts(batch, together, names):
        row, place = part.scored_rows, part.scored % part.weights.shape[-1] + symbols.shape[1] - part.inputs.shape[1]
        seen = _patterns(model, part, names, subject)
        for kind, where in kinds(symbols, row, place, orders).items():
            asked = where.any(1)

            def add(head: str, values: Tensor, kind: str = kind, row: Tensor = row, rows: int = part.rows) -> None:
                own = torch.zeros(rows, dtype=torch.float64).index_add_(0, row, values.double())
                sums.setdefault((head, kind), []).append(own)

            add("even", where.sum(1) / (place + 1))
            counted.setdefault(kind, []).append(torch.bincount(row[asked], minlength=part.rows).double())
            for name in names:
                for head in range(seen[name].shape[1]):
                    attention = seen[name][row, head, part.scored % part.weights.shape[-1]]
                    add(f"{name.split('.')[1]}.{head}", (attention * where).sum(1))
    return {
        (head, kind): ratio_interval(torch.cat(own), torch.cat(counted[kind])) for (head, kind), own in sums.items()
    }


def _parts(batch: Batch, together: int, names: Sequence[str]) -> Iterable[tuple[Batch, Tensor]]:
    """Pieces of the batch whose patterns fit into memory, each with its rows' symbols, prefix included."""
    length = batch.inputs.shape[1] + (0 if batch.prefix is None else batch.prefix.shape[1])
    rows = max(1, PASS // (len(names) * 8 * length**2 * together)) * together
    for first in range(0, batch.rows, rows):
        part = batch.part(first, min(rows, batch.rows - first))
        symbols = part.inputs
        if part.prefix is not None:
            symbols = torch.cat((part.prefix.repeat_interleave(part.rows // part.prefix.shape[0], 0), symbols), 1)
        yield part, symbols


def _patterns(model: nn.Module, part: Batch, names: Sequence[str], subject: Subject) -> dict[str, Tensor]:
    """(N, H, T, S) by name; of the last pass, that of the rows themselves where a prefix is read before them."""
    moved = part.to(subject.device)
    with (
        torch.no_grad(),
        autocast(subject.device, subject.precision),
        activations.capture(model.eval(), list(names)) as seen,
    ):
        outputs_at_scored(model, moved)
    return {name: seen[name].float().cpu() for name in names}


def _result(found: dict[str, Shares], facts: dict[str, Any]) -> Result:
    networks = list(found)
    first = found[networks[0]]
    heads = list(dict.fromkeys(head for head, _ in first if head != "even"))
    kinds_ = list(dict.fromkeys(kind for _, kind in first))
    arrays = {name: np.full((len(networks), len(heads), len(kinds_)), np.nan) for name in ("share", "low", "high")}
    for n, network in enumerate(networks):
        for (head, kind), ratio in found[network].items():
            if head != "even":
                place = n, heads.index(head), kinds_.index(kind)
                arrays["share"][place], arrays["low"][place], arrays["high"][place] = ratio.value, ratio.low, ratio.high
    arrays["even"] = np.array([first["even", kind].value for kind in kinds_])
    axes = {name: ["kind"] if name == "even" else ["network", "head", "kind"] for name in arrays}
    return Result(arrays, axes, {"network": networks, "head": heads, "kind": kinds_}, facts)
