"""A campaign: experiments in order, each a plan over seeds, with gates between them. Imports no torch.

    study: automata
    title: What the campaign asks, in one line
    seeds: 1..5
    result: {set: test, measure: accuracy}     # what is compared, and what gates look at
    gates:
      learned: {least: 0.95}                   # the mean over at least three runs
    set: {record.best: validation/loss}        # the same for all experiments
    experiments:
      - {name: small, set: {preset: 5s5a, model: lstm, model.width: 64}}
      - {name: hard, set: {preset: 5s8a, model: lstm}, after: {small: learned}}        # where `small` passed
      - {name: easy, set: {preset: 3s3a, model: lstm}, fallback: {small: learned}}     # where `small` failed
      - {name: curriculum, set: {preset: 5s5a, model: lstm}, start: easy@best}         # seed by seed
    questions:
      - ask: Does a curriculum help?
        compare: [{first: small, second: curriculum}]

A study's campaign is `campaign.yaml` in its folder; a file of one's own is named on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from inlearn.core.configuration import Config, resolve
from inlearn.core.errors import UserError, unknown
from inlearn.lab import discovery
from inlearn.sweeps.axes import text as axis_text

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$"
MOST_SEEDS = 1000
MINIMUM = 5  # runs of a group, unless a campaign says otherwise


class Value(Config):
    """One number of a run's checkpoint: a measure on an evaluation set, or of its slice at levels of marks."""

    set: str
    measure: str
    at: dict[str, int] = Field(default_factory=dict)

    @property
    def by(self) -> str:
        return ",".join(self.at)

    def __str__(self) -> str:
        slice_ = "".join(f", {mark} {level}" for mark, level in self.at.items())
        return f"{self.measure} on {self.set}{slice_}"


class Analysed(Config):
    """One number of an analysis of a run's checkpoint (`inlearn analyse`), made where it is asked for.

    set: the analysis' keys. array: of its results; at: the label on each of the array's axes.
    """

    analysis: str
    set: dict[str, Any] = Field(default_factory=dict)
    array: str = "score"
    at: dict[str, str] = Field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={axis_text(value)}" for key, value in self.set.items()]

    def __str__(self) -> str:
        keys = f" ({', '.join(self.overrides)})" if self.set else ""
        return f"{self.analysis} {self.array}, {', '.join(self.at.values())}{keys}"


class Gate(Config):
    """Passed where the mean over at least `runs` finished runs is at least `least`, or at most `most`.

    of: what is looked at (none: the campaign's `result`).
    """

    least: float | None = None
    most: float | None = None
    runs: Annotated[int, Field(ge=1)] = 3
    of: Value | None = None

    @model_validator(mode="after")
    def _has_one_threshold(self) -> Gate:
        if (self.least is None) == (self.most is None):
            raise ValueError("a gate needs either least or most")
        return self

    def holds(self, mean: float) -> bool:
        return mean >= self.least if self.least is not None else mean <= self.most

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


class Speed(Config):
    """How soon a measure that rises has come to `share` of its own last value, read from the training evaluations."""

    set: str
    measure: str
    share: Annotated[float, Field(gt=0, lt=1)] = 0.9


class Experiment(Config):
    """One configuration under several seeds; `set` are its overrides, `phase` and `about` only for its readers.

    after, fallback: gates of earlier experiments, all of which must have been passed, respectively failed.
    start: EARLIER@best or EARLIER@last: every seed begins with the weights of that experiment's run of the same seed.
    """

    name: Annotated[str, Field(pattern=NAME)]
    phase: str = ""
    about: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    after: dict[str, str] = Field(default_factory=dict)
    fallback: dict[str, str] = Field(default_factory=dict)
    start: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+@(best|last)$")] | None = None

    @property
    def parent(self) -> str | None:
        return None if self.start is None else self.start.partition("@")[0]

    def waits_for(self) -> Iterator[str]:
        yield from (*self.after, *self.fallback, *([self.parent] if self.parent else []))


class Comparison(Config):
    """second - first, paired by seed, of a value (none: the campaign's `result`) or of what an analysis found."""

    first: str
    second: str
    of: Value | None = None
    analysed: Analysed | None = None

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Comparison:
        if self.of is not None and self.analysed is not None:
            raise ValueError("a comparison has either of or analysed")
        return self


class Question(Config):
    """What the campaign was made to answer, by differences between experiments."""

    ask: str
    compare: Annotated[tuple[Comparison, ...], Field(min_length=1)]
    note: str = ""


class Campaign(Config):
    """The document that the module's docstring shows.

    at: which checkpoint of a finished run is measured. beside: further values for the table. minimum: groups of fewer
    runs are marked in it.
    """

    study: str
    name: Annotated[str, Field(pattern=NAME)] | None = None
    title: str = ""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    minimum: PositiveInt = MINIMUM
    at: Literal["best", "last"] = "best"
    result: Value
    beside: tuple[Value, ...] = ()
    speed: Speed | None = None
    gates: dict[str, Gate] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    experiments: Annotated[tuple[Experiment, ...], Field(min_length=1)]
    questions: tuple[Question, ...] = ()

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, seeds: Any) -> Any:
        return read_seeds(seeds) if isinstance(seeds, str) else seeds

    @field_validator("seeds")
    @classmethod
    def _has_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds = {list(seeds)}: expected different whole numbers from 0 on, at least one")
        return seeds

    @model_validator(mode="after")
    def _names_fit(self) -> Campaign:
        before: list[str] = []
        for place, one in enumerate(self.experiments):
            where = f"experiments.{place} ({one.name})"
            if one.name in before:
                raise ValueError(f"{where}: another experiment has this name")
            for name in one.waits_for():
                if name not in before:
                    raise ValueError(f"{where} waits for '{name}'; expected an experiment before it: {_listed(before)}")
            for gate in (*one.after.values(), *one.fallback.values()):
                if gate not in self.gates:
                    raise ValueError(f"{where}: {unknown('gate', gate, self.gates)}")
            for key in ({*one.set, *self.set}) & {"seed", "name", "start"}:
                raise ValueError(f"{where}: {key} is given by the campaign, not in set")
            before.append(one.name)
        for place, question in enumerate(self.questions):
            for name in (name for pair in question.compare for name in (pair.first, pair.second)):
                if name not in before:
                    raise ValueError(f"questions.{place}: {unknown('experiment', name, before)}")
        return self

    def values(self) -> list[Value]:
        """Everything that is read of an experiment's runs, each once."""
        asked = [self.result, *self.beside, *(gate.of for gate in self.gates.values() if gate.of)]
        asked += [pair.of for question in self.questions for pair in question.compare if pair.of]
        return [value for place, value in enumerate(asked) if value not in asked[:place]]

    def analysed(self) -> list[tuple[Analysed, list[str]]]:
        """What is read of analyses, each once, with the experiments that it is compared in."""
        found: dict[str, tuple[Analysed, list[str]]] = {}
        for pair in (pair for question in self.questions for pair in question.compare if pair.analysed):
            _, names = found.setdefault(str(pair.analysed), (pair.analysed, []))
            names += [name for name in (pair.first, pair.second) if name not in names]
        return list(found.values())


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "there is none"


def read_seeds(text: str) -> tuple[int, ...]:
    """`1..5` (both ends), or `1,2,7`."""
    if span := re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", text):
        first, last = int(span[1]), int(span[2])
        found = list(range(first, last + 1)) if last - first < MOST_SEEDS else []
    elif re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        found = [int(part) for part in text.split(",")]
    else:
        found = []
    if not found or len(found) > MOST_SEEDS or len(set(found)) < len(found):
        raise UserError(f"seeds = {text}: expected 1..5, or different numbers such as 1,2,7; at most {MOST_SEEDS:,}")
    return tuple(found)


def read_campaign(words: str) -> Campaign:
    """The campaign in a YAML file, or that of the study called `words`."""
    if words.endswith((".yaml", ".yml")):
        path = Path(words)
        if not path.is_file():
            raise UserError(f"campaign {path}: no such file")
        return _read(path, path.stem)
    study = discovery.study(words)
    path = study.folder / "campaign.yaml"
    if study.source is not None or not path.is_file():
        with_one = [name for name, found in discovery.studies().items() if (found.folder / "campaign.yaml").is_file()]
        raise UserError(
            f"study {words} has no campaign; expected a YAML file, or a study that has: {_listed(with_one)}"
        )
    return _read(path, study.kind)


def _read(path: Path, name: str) -> Campaign:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"campaign {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"campaign {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, Mapping):
        raise UserError(f"campaign {path}: expected a mapping with study, result, experiments, …")
    try:
        campaign = resolve(Campaign, document)
    except UserError as error:
        raise UserError(f"campaign {path}: {error}") from None
    if campaign.study.endswith(".py"):  # beside the campaign, wherever the command is given
        campaign = campaign.model_copy(update={"study": str((path.parent / campaign.study).resolve())})
    return campaign if campaign.name else campaign.model_copy(update={"name": name})
