"""What a user may ask of the regression study. No torch here, so that help and refusals are quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from inlearn.core.configuration import Config, StudyConfig

if TYPE_CHECKING:
    from inlearn.core.draws import StreamSeeds
    from inlearn.studies.regression.study import RegressionStudy

Count = Annotated[int, Field(ge=1, le=1 << 26)] | Literal["inf"]


class TaskConfig(Config):
    """Where sequences come from: y_k = w·x_k + noise, with x_k standard normal.

    `count` is M, the number of task vectors w that exist in training: "inf" draws a fresh w ~ N(0, prior_variance I)
    for every sequence. `vector` fixes the only task vector instead. `sequences` limits how many different
    sequences training ever sees; they then come round once an epoch.
    """

    dimension: Annotated[int, Field(gt=0, le=1 << 14)] = 4
    examples: Annotated[int, Field(gt=0, le=1 << 16)] = 8
    count: Count = "inf"
    noise_variance: NonNegativeFloat = 0.125
    prior_variance: PositiveFloat = 1.0
    vector: tuple[float, ...] | None = None
    sequences: Count = "inf"

    @property
    def distribution(self) -> Literal["gaussian", "discrete", "singleton"]:
        """Follows from `vector` and `count`, so it cannot contradict them."""
        if self.vector is not None:
            return "singleton"
        return "gaussian" if self.count == "inf" else "discrete"

    @model_validator(mode="after")
    def _vector_fits(self) -> TaskConfig:
        if self.vector is None:
            return self
        if len(self.vector) != self.dimension:
            raise ValueError(f"task.vector has {len(self.vector)} entries; expected task.dimension = {self.dimension}")
        if self.count not in ("inf", 1):
            raise ValueError(f"task.vector is the only task, but task.count is {self.count}; leave task.count out")
        return self


class EvaluationConfig(Config):
    """Sizes of the evaluation sets.

    `rows`: sequences of "train", "heldout" and "gaussian". `gain_rows`: sequences, each shown under every gain.
    `probe_rows`: sequences whose effective weight is read out. `memory`: MiB that the dMMSE may work in.
    """

    rows: Annotated[int, Field(gt=0, le=1 << 26)] = 1024
    gains: tuple[PositiveFloat, ...] = Field(default=(3.0, 5.0, 10.0, 100.0), min_length=1)
    gain_rows: PositiveInt = 256
    probe_rows: PositiveInt = 64
    memory: PositiveInt = 256


class RegressionConfig(StudyConfig):
    """In-context linear regression.

    `outputs` is what a model emits: "answer", one number, or "token", the published D+1 numbers of which only the
    first is ever trained.
    """

    SHAPELESS: ClassVar[frozenset[str]] = frozenset(
        {"task.count", "task.noise_variance", "task.prior_variance", "task.vector", "task.sequences", "evaluation"}
    )
    kind: Literal["regression"] = "regression"
    task: TaskConfig = TaskConfig()
    outputs: Literal["answer", "token"] = "answer"
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def rows_an_epoch(self) -> int | None:
        return None if self.task.sequences == "inf" else self.task.sequences

    def build(self, seeds: StreamSeeds, batch: int | None = None) -> RegressionStudy:
        """The study. `batch` (rows of a training step) is needed only where `task.sequences` is finite."""
        from inlearn.studies.regression.study import RegressionStudy

        return RegressionStudy(self, seeds, batch)
