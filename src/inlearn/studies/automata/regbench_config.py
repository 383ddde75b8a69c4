"""What a user may ask of the task `regbench`. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from inlearn.core.configuration import Config

if TYPE_CHECKING:
    from inlearn.studies.automata.config import AutomataConfig

LETTERS, SEPARATOR, NOOP = 18, 18, 19
SYMBOLS = 20  # letters 0-17, and the two above
MAX_NODES = 16

Nodes = Annotated[int, Field(ge=2, le=MAX_NODES)]
Letters = Annotated[int, Field(ge=1, le=LETTERS)]
Edges = Annotated[int, Field(ge=1, le=LETTERS)]
Length = Annotated[int, Field(ge=1, le=1 << 10)]
Words = Annotated[int, Field(ge=2, le=1 << 10)]


class RegBenchConfig(Config):
    """Random DFAs all of whose nodes accept, and words of one of them (Akyürek et al. 2024): which letter may be next?

    Every pair is the least and the most of a number that is drawn uniformly: nodes, of a DFA before minimisation;
    letters, of its alphabet, out of 18; edges, that leave a node, with letters of their own, to other nodes;
    word_length, in letters; words, of a row. With data=cached there are data.train different DFAs, one row of each,
    whose words stay the same.
    """

    kind: Literal["regbench"] = "regbench"
    nodes: tuple[Nodes, Nodes] = (4, 12)
    letters: tuple[Letters, Letters] = (4, LETTERS)
    edges: tuple[Edges, Edges] = (1, 3)
    word_length: tuple[Length, Length] = (1, 49)
    words: tuple[Words, Words] = (10, 19)

    @model_validator(mode="after")
    def _possible(self) -> RegBenchConfig:
        for key in ("nodes", "letters", "edges", "word_length", "words"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"task.{key} = [{low}, {high}]: expected the least first, such as [{high}, {low}]")
        most = self.edges[1]
        if most > self.letters[0]:
            raise ValueError(
                f"task.edges = {list(self.edges)}, but task.letters = {list(self.letters)}: each of {most} edges has "
                f"a letter of its own; expected at most {self.letters[0]} edges"
            )
        if most > self.nodes[0] - 1:
            raise ValueError(
                f"task.edges = {list(self.edges)}, but task.nodes = {list(self.nodes)}: each of {most} edges leads to "
                f"another node; expected at most {self.nodes[0] - 1} edges"
            )
        return self

    @property
    def length(self) -> int:
        """The most symbols of a row's inputs: its words, the separators between them, and no last symbol."""
        return self.words[1] * (self.word_length[1] + 1) - 2


def check_regbench(config: AutomataConfig) -> None:
    """Raise `ValueError` where `config`, whose task this is, asks for what only machines with actions have."""
    if config.data.kind == "file":
        raise ValueError("data = file with task = regbench: such files hold machines; expected fresh or cached")
    if config.supervision != "query":
        raise ValueError(
            f"supervision = {config.supervision} with task = regbench: every letter is asked already; expected query"
        )
    if config.evaluation.query_lengths:
        raise ValueError("evaluation.query_lengths with task = regbench: its rows have no query; expected none")
    if config.data.kind == "cached" and config.data.folder != type(config.data).model_fields["folder"].default:
        raise ValueError("data.folder with task = regbench: its rows are drawn when they are needed; expected none")
    default = type(config.evaluation).model_fields["free_rows"].default
    if config.evaluation.free_rows != default:
        raise ValueError(
            "evaluation.free_rows with task = regbench: it has no set 'free', whose words would be a learner's own; "
            f"expected it left at {default}"
        )
