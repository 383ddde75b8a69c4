"""What may be asked of a probe. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from inlearn.core.configuration import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlearn.analysis.probe.method import ProbeMethod

Names = Annotated[tuple[str, ...], Field(min_length=1)]
HEAD_KEYS = ("epochs", "batch", "rate", "weight_decay")


class ProbeConfig(Config):
    """Linear read-outs of activations at scored positions, each beside controls.

    set: the evaluation set, none: "test" where the study has one, else its first monitored. rows: of it; rows that
    repeat others are left out. activations: names or patterns such as blocks.*.output; none: the embedded inputs, and
    every layer's state and output. targets: names or patterns of what to look for; none: all.
    method: `ridge`, least squares on one-hot classes in closed form, or `logistic`, multinomial by L-BFGS, slower;
    quantities are read by least squares either way. controls: also probe an untrained network and shuffled labels.
    seed: of shuffled labels and of the replaced head.
    head_replacement: instead of all this, the published probe: the model frozen, its head replaced by a new one with
    bias, trained by AdamW for `epochs` with `batch` rows an update, rate `rate` and decay `weight_decay`.
    """

    kind: Literal["probe"] = "probe"
    set: str | None = None
    rows: Annotated[int, Field(ge=5, le=1 << 22)] = 2000
    activations: Names | None = None
    targets: Names | None = None
    method: Literal["ridge", "logistic"] = "ridge"
    controls: bool = True
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    head_replacement: bool = False
    epochs: PositiveInt = 20
    batch: PositiveInt = 8
    rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01

    @field_validator("activations", "targets", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`a,b` is the list of a and b; commas within brackets part nothing, as in entry[2,5]."""
        if not isinstance(value, str):
            return value
        parts, depth = [""], 0
        for letter in value:
            depth += (letter == "[") - (letter == "]")
            if letter == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += letter
        return [part.strip() for part in parts]

    @model_validator(mode="after")
    def _nothing_idle(self) -> ProbeConfig:
        idle = ("activations", "targets", "method", "controls") if self.head_replacement else HEAD_KEYS
        for key in idle:
            if key in self.model_fields_set:
                wanted = "false" if self.head_replacement else "true"
                raise ValueError(f"{key} has an effect with head_replacement = {wanted} alone")
        return self

    def build(self, say: Callable[[str], None]) -> ProbeMethod:
        """The live method; `say` hears what was left out."""
        from inlearn.analysis.probe.method import ProbeMethod

        return ProbeMethod(self, say)
