"""The probe as an analysis: every activation by every target, beside an untrained network and shuffled labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlearn.analysis.probe import head, targets
from inlearn.analysis.probe.config import ProbeConfig
from inlearn.analysis.probe.features import at_scored, chosen, in_turn
from inlearn.analysis.probe.fit import Fitted, Label, fitted
from inlearn.analysis.probe.rows import Parts, different, parted
from inlearn.analysis.probe.scores import Score
from inlearn.analysis.results import Result
from inlearn.analysis.subject import Subject
from inlearn.core.batch import Batch
from inlearn.core.errors import UserError

TRAINED, UNTRAINED, SHUFFLED = "trained", "untrained", "shuffled"
"""The network as it is; another of its shape with initial weights; the first again, fitted to other rows' labels."""

Scores = dict[tuple[str, str, str], tuple[Score, float]]  # (network, activation, target): score and ridge


class ProbeMethod:
    """What a ProbeConfig builds: `run` computes, `tables` and `figures` show any result, also a stored one."""

    def __init__(self, config: ProbeConfig, say: Callable[[str], None]):
        self.config, self.say = config, say

    def run(self, subject: Subject) -> Result:
        """UserError for what cannot be probed."""
        config = self.config
        name = subject.set_name(config.set)
        together = subject.study.rows_together(name)
        whole = subject.batch(name, config.rows)
        if whole.rows < config.rows:
            self.say(f"set '{name}': {whole.rows:,} of the {config.rows:,} rows asked for")
        batch, kept = different(whole, together)
        if batch.rows < whole.rows:
            self.say(f"{whole.rows - batch.rows:,} of {whole.rows:,} rows of set '{name}' repeat others: left out")
        parts = parted(batch, together)
        facts = {"set": name, "rows": batch.rows, "questions": len(batch.scored), "rows_of_parts": list(parts.rows)}
        if config.head_replacement:
            return head.replaced(config, subject, batch, parts, together, facts)
        remaining = torch.zeros(whole.rows, dtype=torch.bool)
        remaining[kept] = True
        of_kept = remaining[whole.scored_rows]
        found = targets.targets(subject.study, whole, config.targets)
        labels = {("given", target): values[of_kept] for target, values in found.items()}
        targets.check(labels, name)
        return self._probed(subject, batch, parts, together, labels, facts)

    def _probed(
        self,
        subject: Subject,
        batch: Batch,
        parts: Parts,
        together: int,
        labels: dict[Label, Tensor],
        facts: dict[str, Any],
    ) -> Result:
        config, rows = self.config, batch.scored_rows
        sizes = chosen(subject.model, batch, together, config.activations, self.say)
        scores: Scores = {}

        def probe(network: str, model: nn.Module, labels: Mapping[Label, Tensor]) -> None:
            for names in in_turn(sizes, len(batch.scored)):
                own = {name: sizes[name] for name in names}
                seen = at_scored(model, batch, together, own, subject.device, subject.precision)
                for activation in names:
                    fits = fitted(seen.pop(activation), labels, parts.slices, rows, config.method)
                    _keep(scores, network, activation, fits)

        other = {}
        if config.controls:
            other = {
                ("shuffled", name): targets.shuffled(values, rows, parts.slices[:2], config.seed, name)
                for (_, name), values in labels.items()
            }
        probe(TRAINED, subject.model, {**labels, **other})
        if not scores:
            raise UserError("targets: none of them is defined in each part of the rows; expected more rows")
        if config.controls:
            probe(UNTRAINED, subject.untrained(), labels)
        if missing := {name for _, name in labels} - {target for _, _, target in scores}:
            self.say(f"left out, as no question of some part of the rows has them: {', '.join(sorted(missing))}")
        return _result(_with_common(scores), facts, sizes)

    # ------------------------------------------------------------ showing

    def tables(self, result: Result) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
        """(title, columns, rows) for a terminal."""
        if self.config.head_replacement:
            return head.tables(result)
        from inlearn.analysis.probe.shown import tables

        return tables(result)

    def figures(self, result: Result) -> Iterable[tuple[str, str, Any]]:
        """(title, caption, chart)."""
        if self.config.head_replacement:
            return head.figures(result)
        from inlearn.analysis.probe.shown import figures

        return figures(result)


def _keep(scores: Scores, network: str, activation: str, fits: Mapping[Label, Fitted]) -> None:
    for (kind, target), fit in fits.items():
        name = network if kind == "given" else SHUFFLED
        scores[name, activation, target] = fit.score, fit.read.ridge


def _with_common(scores: Scores) -> Scores:
    """With the common score of targets that are entries of one thing, which stands before them."""
    found: Scores = {}
    families: dict[tuple[str, str, str], list[Score]] = {}
    for (network, activation, target), (score, _) in scores.items():
        if "[" in target:
            families.setdefault((network, activation, targets.family(target)), []).append(score)
    for (network, activation, target), own in scores.items():
        first = (network, activation, targets.family(target))
        if first in families and first not in found:
            found[first] = Score.common(families[first]), float("nan")
        found[network, activation, target] = own
    return found


def _result(scores: Scores, facts: dict[str, Any], sizes: Mapping[str, int]) -> Result:
    activations = list(sizes)
    networks = [name for name in (TRAINED, UNTRAINED, SHUFFLED) if any(key[0] == name for key in scores)]
    names = list(dict.fromkeys(target for _, _, target in scores))
    shape = (len(networks), len(activations), len(names))
    arrays = {name: np.full(shape, np.nan) for name in ("score", "low", "high", "ridge")}
    arrays |= {name: np.full(len(names), np.nan) for name in ("baseline", "judged_rows")}
    units = {}
    for (network, activation, target), (score, ridge) in scores.items():
        place = networks.index(network), activations.index(activation), names.index(target)
        ratio = score.ratio
        arrays["score"][place], arrays["low"][place], arrays["high"][place] = ratio.value, ratio.low, ratio.high
        arrays["ridge"][place] = ridge
        arrays["baseline"][place[2]], arrays["judged_rows"][place[2]] = score.without, ratio.n
        units[target] = "R²" if score.quantity else "accuracy"
    every = ["network", "activation", "target"]
    axes = {name: every if values.ndim == 3 else ["target"] for name, values in arrays.items()}
    labels = {"network": networks, "activation": activations, "target": names}
    return Result(arrays, axes, labels, {**facts, "units": units, "widths": dict(sizes)})
