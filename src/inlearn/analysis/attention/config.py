"""What may be asked of the attention analysis. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from inlearn.core.configuration import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlearn.analysis.attention.method import AttentionMethod


class AttentionConfig(Config):
    """How much of every head's attention, at scored positions, goes to positions of a kind.

    set: the evaluation set, none: "test" where the study has one, else its first monitored. rows: of it.
    orders: for each k, `match[k]` is where the last k symbols stood before, `after match[k]` what came next there: a
    head that copies looks at the second. Beside them `previous`, the position before, and `self`.
    controls: also an untrained network of the same shape.
    """

    kind: Literal["attention"] = "attention"
    set: str | None = None
    rows: Annotated[int, Field(ge=2, le=1 << 20)] = 200
    orders: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2)
    controls: bool = True

    @field_validator("orders", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    def build(self, say: Callable[[str], None]) -> AttentionMethod:
        """The live method; `say` hears what was left out."""
        from inlearn.analysis.attention.method import AttentionMethod

        return AttentionMethod(self, say)
