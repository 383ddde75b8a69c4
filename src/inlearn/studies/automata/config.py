"""What a user may ask of the automata study. No torch here, so that help and refusals are quick."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from inlearn.core.configuration import Config, StudyConfig
from inlearn.studies.automata.header import read_header
from inlearn.studies.automata.regbench_config import RegBenchConfig, check_regbench

if TYPE_CHECKING:
    from pathlib import Path

    from inlearn.core.draws import StreamSeeds
    from inlearn.studies.automata.regbench_study import RegBenchStudy
    from inlearn.studies.automata.study import AutomataStudy

MAX_STATES, MAX_ACTIONS = 8, 10
EOS, QUERY, PAD = 18, 19, 20
SYMBOLS = 21  # states 0-7, actions 8-17, and the three above

LONGEST_WALK = 1 << 14
Length = Annotated[int, Field(ge=1, le=LONGEST_WALK)]


class MachinesConfig(Config):
    """Machines of `states` states and `actions` actions, and the walks that a row shows of one.

    demos: demonstrations a row shows, each from another start state, at most `states`. demo_length, query_length: of a
    walk, in actions, before `jitter`; none: b ln(b) rounded down, b = states * actions. jitter: each length is drawn
    uniformly within this share of itself, rounded down.
    absorbing: `none` forbids states that no action leaves, `one` makes exactly one, `any` leaves them to chance (the
    published generator); every state can be reached from state 0 in all three. connected: every state from every other.
    defined: the share of (state, action) pairs that have a next state; walks take defined actions only.
    outputs: how many output symbols states share (a Moore machine that shows outputs); none: states show themselves.
    relabel: every row has its own symbols for states and actions, drawn from all 8 and 10.
    head: `all` answers with one of 8 states, those that cannot be ruled out; `states` with one of `states`.
    """

    kind: Literal["machines"] = "machines"
    states: Annotated[int, Field(ge=2, le=MAX_STATES)] = 3
    actions: Annotated[int, Field(ge=1, le=MAX_ACTIONS)] = 3
    demos: PositiveInt = 3
    demo_length: Length | None = None
    query_length: Length | None = None
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    absorbing: Literal["any", "none", "one"] = "any"
    connected: bool = False
    defined: Annotated[float, Field(gt=0, le=1)] = 1.0
    outputs: Annotated[int, Field(ge=2, le=MAX_STATES)] | None = None
    relabel: bool = False
    head: Literal["all", "states"] = "all"

    @model_validator(mode="after")
    def _possible(self) -> MachinesConfig:
        if self.demos > self.states:
            raise ValueError(
                f"task.demos = {self.demos}, but each demonstration starts from another of task.states = {self.states}"
            )
        if self.head == "states" and self.relabel:
            raise ValueError("task.head = states with task.relabel = true: rows show all 8 state symbols; expected all")
        if self.connected and self.absorbing == "one":
            raise ValueError("task.connected = true with task.absorbing = one: nothing is reached from that state")
        if self.outputs is not None and self.outputs > self.states:
            raise ValueError(
                f"task.outputs = {self.outputs}, but each is shown by one at least of task.states = {self.states}"
            )
        pairs, needed = self.states * self.actions, 2 * self.states - 2
        if self.defined < 1 and round(self.defined * pairs) < needed:
            raise ValueError(
                f"task.defined = {self.defined} leaves {round(self.defined * pairs)} of {pairs} pairs a next state; "
                f"expected at least {needed}, so that every state can be reached and left"
            )
        return self

    def walk(self, given: int | None) -> int:
        """A length before jitter."""
        base = self.states * self.actions
        return given or max(1, math.floor(base * math.log(base)))

    def longest(self, given: int | None) -> int:
        return max(1, math.floor(self.walk(given) * (1 + self.jitter)))

    @property
    def length(self) -> int:
        """The most symbols of a row."""
        return self.demos * (2 * self.longest(self.demo_length) + 2) + 1 + 2 * self.longest(self.query_length) + 2


class FreshConfig(Config):
    """Every batch has machines and walks of its own, without end."""

    kind: Literal["fresh"] = "fresh"


Rows = Annotated[int, Field(gt=0, le=1 << 24)]


class CachedConfig(Config):
    """A finite set of rows that come round once an epoch, each time with other demonstrations of its machine.

    train, validation, test: rows of each. seed: of the rows, which are the same for every run. folder: where
    `inlearn prepare automata` writes them and a run looks for them; where there is no file they are drawn in memory.
    """

    kind: Literal["cached"] = "cached"
    train: Rows = 6000
    validation: Rows = 2000
    test: Rows = 2000
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    folder: str = "data"


class FileConfig(Config):
    """The rows of a file that `inlearn import automata` made: 60 % to train on, then 20 % validation, 20 % test."""

    kind: Literal["file"] = "file"
    path: str


class EvaluationConfig(Config):
    """rows: of each evaluation set (finite data has its own). free_rows: of set "free", the first test rows.

    query_lengths: of further sets "query_L" with machines of the test split and queries of L actions.
    """

    rows: Annotated[int, Field(gt=0, le=1 << 26)] = 512
    free_rows: Annotated[int, Field(gt=0, le=1 << 26)] = 256
    query_lengths: tuple[Length, ...] = ()


class AutomataConfig(StudyConfig):
    """In-context learning of finite automata: from walks through an unseen machine, where does the next action lead?

    supervision: what is trained on: `query` the query's next states (published), `dense` those of demonstrations too.
    """

    SHAPELESS: ClassVar[frozenset[str]] = frozenset({"evaluation.rows", "evaluation.free_rows", "supervision"})
    PLACES: ClassVar[frozenset[str]] = frozenset({"data.folder", "data.path"})
    kind: Literal["automata"] = "automata"
    task: Annotated[MachinesConfig | RegBenchConfig, Field(discriminator="kind")] = MachinesConfig()
    data: Annotated[FreshConfig | CachedConfig | FileConfig, Field(discriminator="kind")] = FreshConfig()
    supervision: Literal["query", "dense"] = "query"
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> AutomataConfig:
        lengths = self.evaluation.query_lengths
        if self.task.kind == "regbench":
            check_regbench(self)
            return self
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"evaluation.query_lengths = {list(lengths)} names a length twice; expected each once")
        if self.data.kind != "file":
            return self
        if lengths:
            raise ValueError(
                f"evaluation.query_lengths = {list(lengths)} with data = file: its machines have the queries that they "
                "have; expected none, or data = cached"
            )
        for key in ("defined", "outputs", "relabel"):
            default = MachinesConfig.model_fields[key].default
            if (value := getattr(self.task, key)) != default:
                raise ValueError(f"task.{key} = {value} with data = file: the file's machines are what they are")
        return self

    @property
    def rows_an_epoch(self) -> int | None:
        """How many training rows come round; None where they never do."""
        if self.data.kind == "fresh":
            return None
        return self.data.train if self.data.kind == "cached" else read_header(self.data.path).splits[0]

    def fingerprints(self) -> Mapping[str, str]:
        return {"rows": read_header(self.data.path).fingerprint} if self.data.kind == "file" else {}

    @classmethod
    def import_file(cls, source: Path, out: Path, say: Callable[[str], None]) -> None:
        """Rows of the published list of dictionaries (`torch.save`) as a file for `data = file`."""
        from inlearn.studies.automata.importing import convert

        convert(source, out, say)

    def build(self, seeds: StreamSeeds, batch: int | None = None) -> AutomataStudy | RegBenchStudy:
        if self.task.kind == "regbench":
            from inlearn.studies.automata.regbench_study import RegBenchStudy

            return RegBenchStudy(self, seeds, batch)
        from inlearn.studies.automata.study import AutomataStudy

        return AutomataStudy(self, seeds, batch)
