"""What is measured of a learner's answers, and the figures derived from it. Sets of evaluation rows are in study.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure
from inlearn.core.spaces import Space

SEQUENCES = ("train", "heldout", "gaussian")
GAINS = ("input_gains", "task_gains")
SWEEPS = ("input_sweep", "task_sweep")
PROBES = ("effective_weight",)

BY_POSITION = (("position",),)
BY_GAIN = (("gain",),)
BY_GAIN_AND_POSITION = (("gain",), ("gain", "position"))

Value = Callable[[Batch, Space, Tensor], Tensor]


# ---------------------------------------------------------------- values, one a scored position or one a row


def loss(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) squared errors."""
    return space.loss(prediction, batch.at_scored(batch.targets))


def squared_answer(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) squares of the answers themselves: squared distances to the zero predictor."""
    return prediction.square().mean(-1)


def subsequence_loss(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(N,) expected mean error over the first k examples, k uniform on 1..K: exact, where the original draws one k."""
    errors = loss(batch, space, prediction).view(batch.rows, -1)
    examples = errors.shape[1]
    # Example i is in the subsequences of k >= i and weighs 1/k there.
    inverse = 1.0 / torch.arange(1, examples + 1, dtype=errors.dtype, device=errors.device)
    return errors @ (inverse.flip(0).cumsum(0).flip(0) / examples)


def divided(value: Value, divisors: Sequence[float]) -> Value:
    """`value` divided by the divisor of the row's gain."""

    def quotient(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
        values = value(batch, space, prediction)
        table = torch.tensor(divisors, dtype=torch.float64, device=values.device)
        return values / table[batch.at_scored(batch.marks["gain"])]

    return quotient


def effective_weights(batch: Batch, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """ŵ and the true w, (n / D, D) each, of a batch of probes (tasks.EffectiveWeight), in float64.

    Raises `ValueError` if the batch cuts through the D rows of a probe: evaluate them in multiples of D.
    """
    w = batch.latents.w
    dimension = w.shape[-1]
    probes = batch.at_scored(batch.inputs)[:, 1:]
    axes = probes.argmax(-1)
    if len(axes) % dimension or not (axes.view(-1, dimension) == torch.arange(dimension, device=axes.device)).all():
        raise ValueError(f"probes of effective weights come in groups of {dimension} rows; this batch splits a group")
    read = prediction.squeeze(-1).double() / probes.amax(-1)
    return read.view(-1, dimension), w[::dimension].double()


def _read_out(compare: Callable[[Tensor, Tensor], Tensor]) -> Value:
    """A comparison of ŵ with w, given to each of the D rows that it was read from."""

    def value(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
        read, true = effective_weights(batch, prediction)
        return compare(read, true).repeat_interleave(true.shape[-1])

    return value


def _cosine(read: Tensor, true: Tensor) -> Tensor:
    """0 where nothing was read: a learner that answers 0 points nowhere."""
    scale = read.norm(dim=-1) * true.norm(dim=-1)
    return torch.where(scale > 0, (read * true).sum(-1) / scale.clamp(min=1e-300), 0.0)


def _relative_norm(read: Tensor, true: Tensor) -> Tensor:
    return read.norm(dim=-1) / true.norm(dim=-1)


def _distance(read: Tensor, true: Tensor) -> Tensor:
    return (read - true).norm(dim=-1)


# ---------------------------------------------------------------- the study's measures


def measures(gains: Sequence[float], sweep: Sequence[float], power: Callable[[float], float]) -> list[Measure]:
    """`power(gain)` is E y² under a gain. Rows of one "sequence" are not independent, so it is their cluster."""
    found = [
        _loss(BY_POSITION, SEQUENCES),
        _loss(BY_GAIN_AND_POSITION, GAINS, "sequence"),
        _loss(BY_GAIN, SWEEPS, "sequence"),
        _loss((), PROBES, "sequence"),
        Measure(
            "loss_subsequence",
            "squared error",
            "E_k [1/k Σ_{i≤k} (ŷ_i - y_i)²], k uniform on 1..K",
            subsequence_loss,
            sets=SEQUENCES,
        ),
        _prediction_norm(BY_POSITION, SEQUENCES),
        _prediction_norm(BY_GAIN_AND_POSITION, GAINS, "sequence"),
        _prediction_norm(BY_GAIN, SWEEPS, "sequence"),
    ]
    for sets, factors, by in ((GAINS, gains, BY_GAIN_AND_POSITION), (SWEEPS, sweep, BY_GAIN)):
        scaled = divided(loss, [gain**2 for gain in factors])
        ratio = divided(squared_answer, [power(gain) for gain in factors])
        about_ratio = "ŷ² / E y², the expectation at this gain"
        found += [
            Measure("loss_scaled", "squared error / gain²", "(ŷ - y)² / g²", scaled, by, sets, "sequence"),
            Measure("prediction_norm_ratio", "ratio", about_ratio, ratio, BY_GAIN, sets, "sequence"),
        ]
    for name, unit, formula, compare in (
        ("weight_cosine", "cosine", "ŵ·w / (|ŵ||w|), 0 where ŵ is 0", _cosine),
        ("weight_relative_norm", "ratio", "|ŵ| / |w|", _relative_norm),
        ("weight_distance", "weight", "|ŵ - w|", _distance),
    ):
        found.append(Measure(name, unit, formula, _read_out(compare), BY_POSITION, PROBES, cluster="sequence"))
    return found


def _loss(by: tuple[tuple[str, ...], ...], sets: tuple[str, ...], cluster: str | None = None) -> Measure:
    """A mean over gains would be that of the largest, so sets with gains have none."""
    return Measure("loss", "squared error", "(ŷ - y)²", loss, by, sets, cluster, overall="gain" not in sum(by, ()))


def _prediction_norm(by: tuple[tuple[str, ...], ...], sets: tuple[str, ...], cluster: str | None = None) -> Measure:
    overall = "gain" not in sum(by, ())
    return Measure("prediction_norm", "squared answer", "ŷ²", squared_answer, by, sets, cluster, overall)


# ---------------------------------------------------------------- in-context scores


def in_context_scores(examples: int) -> list[Measure]:
    """I_{a:b} = loss at example b minus loss at example a (1-based): how much the examples between them helped.

    Differences within a row, so their standard errors are paired.
    """
    spans = ((1, 4), (4, 8), (1, 8), (8, 16), (1, 16))
    return [
        Measure(
            f"icl_{early}_{late}",
            "squared error",
            f"loss at example {late} - loss at example {early}",
            _difference(early - 1, late - 1),
            sets=SEQUENCES,
        )
        for early, late in spans
        if late <= examples
    ]


def _difference(early: int, late: int) -> Value:
    def value(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
        errors = loss(batch, space, prediction).view(batch.rows, -1)
        return errors[:, late] - errors[:, early]

    return value


def gain_scores(gains: Sequence[float], examples: int) -> list[Measure]:
    """I_{1:K} under each gain. The original divides by g; errors grow as g², so only that division compares gains."""

    def over(divisors: Sequence[float]) -> Value:
        def value(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
            table = torch.tensor(divisors, dtype=torch.float64, device=prediction.device)
            return _difference(0, examples - 1)(batch, space, prediction) / table[batch.marks["gain"]]

        return value

    span = f"(loss at example {examples} - loss at example 1)"
    squares = [gain**2 for gain in gains]
    kept = {"by": BY_GAIN, "sets": GAINS, "cluster": "sequence", "overall": False}
    return [
        Measure("icl_gain", "squared error / gain²", f"{span} / g²", over(squares), **kept),
        Measure("icl_gain_published", "squared error / gain", f"{span} / g", over(gains), **kept),
    ]
