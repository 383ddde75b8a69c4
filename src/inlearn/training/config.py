"""What training and recording can be asked for. No torch here: a wrong key is refused before anything slow loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from inlearn.core.configuration import Config

Probability = Annotated[float, Field(ge=0, lt=1)]

# ---------------------------------------------------------------- optimisers


class Adam(Config):
    """Adam (Kingma & Ba 2015); `weight_decay` is added to the gradient."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov & Hutter 2019), applied to every parameter."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: NonNegativeFloat = 0.01


class SGD(Config):
    kind: Literal["sgd"] = "sgd"
    momentum: Probability = 0.0
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs momentum above 0")
        return self


Optimiser = Annotated[Adam | AdamW | SGD, Field(discriminator="kind")]

# ---------------------------------------------------------------- learning-rate schedules


class Constant(Config):
    """The peak rate throughout, after a linear warm-up of `warmup` steps."""

    kind: Literal["constant"] = "constant"
    warmup: NonNegativeInt = 0


class OneCycle(Config):
    """A triangle: peak / initial_division up to the peak at `peak_at` of the steps, then down.

    The last rate is peak / (initial_division · final_division), as in torch's OneCycleLR.
    """

    kind: Literal["onecycle"] = "onecycle"
    peak_at: Annotated[float, Field(gt=0, lt=1)] = 0.5
    initial_division: PositiveFloat = 25.0
    final_division: PositiveFloat = 1e4


class Cosine(Config):
    """Half a cosine from the peak to `floor` times the peak, after a linear warm-up."""

    kind: Literal["cosine"] = "cosine"
    warmup: NonNegativeInt = 0
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0


class Exponential(Config):
    """The peak times 2^(-steps after the warm-up / half_life)."""

    kind: Literal["exponential"] = "exponential"
    warmup: NonNegativeInt = 0
    half_life: PositiveFloat


Schedule = Annotated[Constant | OneCycle | Cosine | Exponential, Field(discriminator="kind")]

# ---------------------------------------------------------------- which steps


class LogLinear(Config):
    """The published sets: `log` points of logspace(1, N) joined with `linear` points of linspace(0, N), truncated.

    The strides keep every n-th of the sorted points. Counts are exactly those of regression.md, section 5.2.
    """

    kind: Literal["loglinear"] = "loglinear"
    log: NonNegativeInt = 50
    linear: NonNegativeInt = 50
    log_stride: PositiveInt = 1
    linear_stride: PositiveInt = 1


class Every(Config):
    kind: Literal["every"] = "every"
    steps: PositiveInt


class Listed(Config):
    kind: Literal["listed"] = "listed"
    steps: tuple[NonNegativeInt, ...]


class Never(Config):
    """Only the initial and the final step."""

    kind: Literal["never"] = "never"


Steps = Annotated[LogLinear | Every | Listed | Never, Field(discriminator="kind")]

# ---------------------------------------------------------------- what is watched, and when to end


@dataclass(frozen=True)
class Watched:
    """One overall number of an evaluation, written set/measure or set/distance/reference."""

    set: str
    measure: str
    reference: str | None = None

    @classmethod
    def parse(cls, text: str) -> Watched:
        set_, _, rest = text.partition("/")
        measure, _, reference = rest.partition("/")
        return cls(set_, measure, reference or None)

    def __str__(self) -> str:
        return "/".join(part for part in (self.set, self.measure, self.reference) if part)


class Stop(Config):
    """A condition on one overall number of an evaluation set, looked at every `every` steps.

    It holds once the number is `below` or `above` a threshold, or has not improved for `patience` looks (improving
    is falling, or rising where `above` is given).
    """

    set: str = "train"
    measure: str = "loss"
    reference: str | None = None
    below: float | None = None
    above: float | None = None
    patience: PositiveInt | None = None
    every: PositiveInt = 100

    @model_validator(mode="after")
    def _has_a_condition(self) -> Stop:
        if self.below is None and self.above is None and self.patience is None:
            raise ValueError("needs below=…, above=… or patience=…")
        if (self.reference is None) == (self.measure == "distance"):
            raise ValueError("measure=distance goes with reference=NAME, and no other measure does")
        return self

    @property
    def watched(self) -> Watched:
        return Watched(self.set, self.measure, self.reference)


class Phase(Config):
    """A leg of a curriculum: the study with `study` laid on it, for at most `steps` steps.

    With `end`, the phase hands over as soon as the condition holds (its steps are counted from the phase's start, and
    its last step is always looked at), and a phase that never reaches it ends the run as failed.
    `optimiser=fresh` forgets the moments when the phase begins.
    """

    steps: PositiveInt
    study: dict[str, Any] = Field(default_factory=dict)
    optimiser: Literal["keep", "fresh"] = "keep"
    end: Stop | None = None


class Training(Config):
    """`steps` is the horizon that schedules see; `until` is where this invocation stops, and no part of identity.

    `epochs`, in the place of `steps`, counts passes over a study's finite data (lab/epochs.py).
    """

    STAND_INS: ClassVar[Mapping[str, str]] = {"epochs": "steps"}

    steps: PositiveInt = 10_000
    until: PositiveInt | None = None
    batch: Annotated[int, Field(gt=0, le=1 << 24)] = 256
    accumulate: PositiveInt = 1
    optimiser: Optimiser = Adam()
    rate: PositiveFloat = 1e-3
    schedule: Schedule = Constant()
    clip: PositiveFloat | None = None
    stop: Stop | None = None
    phases: tuple[Phase, ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Training:
        if self.until is not None and self.until > self.steps:
            raise ValueError(f"training.until = {self.until} lies beyond training.steps = {self.steps}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"training.batch = {self.batch} is not divisible by training.accumulate = {self.accumulate}"
            )
        if self.phases and sum(phase.steps for phase in self.phases) != self.steps:
            total = sum(phase.steps for phase in self.phases)
            raise ValueError(f"training.steps = {self.steps}, but its phases have {total} steps together")
        warmup = getattr(self.schedule, "warmup", 0)
        if warmup >= self.steps:
            raise ValueError(f"training.schedule.warmup = {warmup} leaves nothing of training.steps = {self.steps}")
        return self

    @property
    def last(self) -> int:
        return self.until or self.steps


class Record(Config):
    """What is written down while training, and when. None of it changes the run, so none of it is hashed."""

    training: PositiveInt = 100
    evaluations: Steps = LogLinear()
    checkpoints: Steps = LogLinear()
    trajectory: Steps | None = None
    best: str | None = "train/loss"
    rolling: PositiveFloat = 120.0
