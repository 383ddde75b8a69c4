"""All targets of one activation: fitted on some rows, chosen by others, judged on the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from inlearn.analysis.probe.logistic import logistic
from inlearn.analysis.probe.ridge import ReadOut, columns, ridge, standardise
from inlearn.analysis.probe.scores import Score, judged
from inlearn.analysis.probe.targets import defined

Label = tuple[str, str]  # ("given" or "shuffled", the target's name)


@dataclass(frozen=True)
class Fitted:
    read: ReadOut
    score: Score


def fitted(
    x: Tensor,
    labels: Mapping[Label, Tensor],
    parts: Sequence[slice],
    rows: Tensor,
    method: Literal["ridge", "logistic"],
) -> dict[Label, Fitted]:
    """Of activations x (n, d), which are standardised in place. `rows` (n,): the row of each position.

    A target that is defined nowhere in one of the parts is left out.
    """
    standardise(x, parts[0])
    count = int(rows.max()) + 1
    alike: dict[bytes, list[Label]] = {}
    masks = {label: defined(values) for label, values in labels.items()}
    for label, mask in masks.items():
        alike.setdefault(mask.numpy().tobytes(), []).append(label)
    found = {}
    for group in alike.values():
        mask = masks[group[0]]
        counts = [int(mask[part].sum()) for part in parts]
        if not all(counts):
            continue
        whole = bool(mask.all())
        own = {label: labels[label] if whole else labels[label][mask] for label in group}
        found |= _group(x if whole else x[mask], own, counts, rows if whole else rows[mask], count, method)
    return {label: found[label] for label in labels if label in found}


def _group(
    x: Tensor, labels: Mapping[Label, Tensor], counts: Sequence[int], rows: Tensor, count: int, method: str
) -> dict[Label, Fitted]:
    """Targets that are defined at the same positions, of which there are `counts` in the three parts."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    fitting, choosing, judging = slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], ends[2])
    classes = {label: int(y.max()) + 1 if y.dtype == torch.int64 else None for label, y in labels.items()}
    linear = [label for label in labels if method == "ridge" or classes[label] is None]
    reads: dict[Label, ReadOut] = {}
    if linear:
        given = ridge(x, fitting, choosing, [labels[label] for label in linear], [classes[label] for label in linear])
        reads |= dict(zip(linear, given, strict=True))
    for label in labels.keys() - set(linear):
        reads[label] = logistic(x, fitting, choosing, labels[label], classes[label])
    found = {}
    for label, y in labels.items():
        number = classes[label]
        mean = columns(y[fitting], number, torch.float64).mean(0)
        likeliest = None if number is None else int(mean.argmax())
        score = judged(reads[label], x[judging], y[judging], rows[judging], count, likeliest, mean)
        found[label] = Fitted(reads[label], score)
    return found
