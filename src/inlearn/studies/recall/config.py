"""What a user may ask of the recall study. No torch here, so that help and refusals are quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from inlearn.core.configuration import Config, StudyConfig

if TYPE_CHECKING:
    from inlearn.core.draws import StreamSeeds
    from inlearn.studies.recall.study import RecallStudy

Counts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class TaskConfig(Config):
    """What a row shows and asks: `pairs` keys with their values, then each key once, to be answered by its value.

    vocabulary: of V symbols, 1 .. V/2-1 are keys and V/2 .. V-1 values. length: of every row, in symbols.
    pairs: a number, or a list from which each row draws one; a number that stands there twice comes twice as often.
    power: a of the law p(g) ~ g^(a-1) by which questions fall on the slots after the context (1: uniform).
    passes: how often the context shows its pairs. filler: what stands between questions, a symbol drawn from the whole
    vocabulary or symbol 0.
    """

    vocabulary: Annotated[int, Field(ge=4, le=1 << 20)] = 64
    length: Annotated[int, Field(ge=4, le=1 << 16)] = 64
    pairs: PositiveInt | Counts = 8
    power: Annotated[float, Field(gt=0, le=10)] = 0.01
    passes: PositiveInt = 1
    filler: Literal["random", "zero"] = "random"

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.pairs,) if isinstance(self.pairs, int) else self.pairs

    @property
    def capacity(self) -> int:
        """The most pairs that a row can show and ask for."""
        return min(self.length // (2 * self.passes + 2), self.vocabulary // 2 - 1)

    def check_pairs(self, key: str, count: int) -> None:
        """Raise `ValueError` if a row cannot have `count` pairs, asked for by the key `key`."""
        keys, needed = self.vocabulary // 2 - 1, count * (2 * self.passes + 2)
        if count > keys:
            raise ValueError(
                f"{key} = {count}, but task.vocabulary = {self.vocabulary} has {keys} keys; expected at most "
                f"{self.capacity} pairs, or task.vocabulary of at least {2 * count + 2}"
            )
        if needed > self.length:
            shown = f"{self.passes} times" if self.passes > 1 else "once"
            raise ValueError(
                f"{key} = {count} takes {needed} symbols (every pair {shown}, and as much for the questions), but "
                f"task.length = {self.length}; expected at most {self.capacity} pairs, or a length of at least {needed}"
            )

    @model_validator(mode="after")
    def _fits(self) -> TaskConfig:
        for key, value in (("task.vocabulary", self.vocabulary), ("task.length", self.length)):
            if value % 2:
                raise ValueError(f"{key} = {value} is odd; expected an even number, such as {value + 1}")
        for count in self.counts:
            self.check_pairs("task.pairs", count)
        return self


class EvaluationConfig(Config):
    """Sizes of the evaluation sets.

    rows: of "train". pairs: the numbers of pairs on set "pairs" (none: powers of two up to what fits, and training's
    own). pair_rows: rows of each of them.
    """

    rows: Annotated[int, Field(gt=0, le=1 << 26)] = 512
    pairs: Counts | None = None
    pair_rows: Annotated[int, Field(gt=0, le=1 << 26)] = 128


class RecallConfig(StudyConfig):
    """Multi-query associative recall: which value stood beside this key?"""

    SHAPELESS: ClassVar[frozenset[str]] = frozenset(
        {"task.pairs", "task.power", "task.passes", "task.filler", "evaluation"}
    )
    kind: Literal["recall"] = "recall"
    task: TaskConfig = TaskConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _evaluation_fits(self) -> RecallConfig:
        given = self.evaluation.pairs or ()
        for count in given:
            self.task.check_pairs("evaluation.pairs", count)
        if len(set(given)) < len(given):
            raise ValueError(f"evaluation.pairs = {list(given)} names a number twice; expected each once")
        return self

    @property
    def evaluated_pairs(self) -> tuple[int, ...]:
        """The numbers of pairs on set "pairs", ascending."""
        if self.evaluation.pairs is not None:
            return tuple(sorted(self.evaluation.pairs))
        powers = (1 << power for power in range(self.task.capacity.bit_length()))
        return tuple(sorted({*powers, *self.task.counts}))

    def build(self, seeds: StreamSeeds, batch: int | None = None) -> RecallStudy:
        from inlearn.studies.recall.study import RecallStudy

        return RecallStudy(self, seeds)
