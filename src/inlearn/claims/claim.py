"""A claim is a YAML file in its study's folder `claims/`. Reading one imports no torch."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from inlearn.core.configuration import Config, resolve
from inlearn.core.errors import UserError
from inlearn.lab import discovery


class Read(Config):
    """One number of a run's evaluation table. `at` gives the level of each mark, e.g. {position: 3}."""

    step: int | Literal["last"] = "last"
    set: str = "train"
    learner: str = "model"
    measure: str = "loss"
    reference: str | None = None
    at: dict[str, int] = Field(default_factory=dict)


class Quantity(Config):
    """An exact number: one of the study's quantities or of `claims/quantities.py`, with its arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Check(Config):
    """Ours against the published value: `read` - `minus` + `plus`, of every seed or (`over: mean`) of their mean.

    `minus` with `plus` is a control variate: what an ideal learner scored on the same rows, replaced by its exact
    expectation, takes most of the evaluation rows' luck out of a loss.
    """

    what: str
    quantity: Quantity | None = None
    run: str | None = None
    read: Read | None = None
    minus: Read | None = None
    plus: float = 0.0
    over: Literal["each", "mean"] = "each"
    published: float | None = None
    band: tuple[float | None, float | None]

    @model_validator(mode="after")
    def _measures_something(self) -> Check:
        if (self.quantity is None) == (self.run is None or self.read is None):
            raise ValueError(f"check '{self.what}' needs either a quantity, or a run and what to read of it")
        return self


class Runs(Config):
    """The same configuration under several seeds. `x` places it on the claim's chart."""

    label: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    x: float | None = None


class Series(Config):
    """A line of the claim's chart: one number of every group of runs, over their `x`; or, over steps, of the runs of
    group `run` (an ideal learner's is a line across)."""

    name: str
    read: Read
    run: str | None = None


class Chart(Config):
    """`x` and `y` name the axes. over: what the groups differ in, their `x`, or the steps that were evaluated."""

    x: str
    y: str
    over: Literal["groups", "steps"] = "groups"
    log_x: bool = False
    log_y: bool = False
    series: tuple[Series, ...]


class Claim(Config):
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
    title: str
    source: str
    tier: Literal["seconds", "minutes", "hours", "gpu"]
    study: str
    note: str = ""
    runs: tuple[Runs, ...] = ()
    checks: Annotated[tuple[Check, ...], Field(min_length=1)]
    chart: Chart | None = None

    @model_validator(mode="after")
    def _runs_exist(self) -> Claim:
        labels = {runs.label for runs in self.runs}
        for check in self.checks:
            if check.run is not None and check.run not in labels:
                raise ValueError(f"check '{check.what}' reads run '{check.run}', which is not among {sorted(labels)}")
        for series in self.chart.series if self.chart is not None else ():
            if (series.run in labels) != (self.chart.over == "steps"):
                wanted = f"one of {sorted(labels)}" if self.chart.over == "steps" else "none over groups"
                raise ValueError(f"series '{series.name}' reads run '{series.run}'; expected {wanted}")
        return self


@cache
def all_claims() -> dict[str, Claim]:
    """Every claim of every study, by id, in the order of their files."""
    found: dict[str, Claim] = {}
    for study in discovery.studies().values():
        for path in sorted((study.folder / "claims").glob("*.yaml")):
            try:
                claim = resolve(Claim, yaml.safe_load(path.read_text()))
            except (UserError, yaml.YAMLError) as error:
                raise UserError(f"{path}: {error}") from None
            if claim.id in found:
                raise UserError(f"{path}: another file has a claim with the id {claim.id}")
            found[claim.id] = claim
    return found
