"""`model.match_params=N`: the width at which a model of a study has nearest to N parameters.

Models are built on the meta device, where parameters have shapes and no memory. This module imports torch; nothing
that composes a configuration loads it before `match_params` is asked for.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from pydantic import ValidationError

from inlearn.core.configuration import Config, canonical, kind_of, resolve, variants
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface
from inlearn.lab.build import build_study
from inlearn.lab.config import MATCHED, RunBase
from inlearn.lab.described import blamed_on
from inlearn.lab.discovery import FoundStudy

WIDEST = 1 << 16


@dataclass(frozen=True)
class Match:
    """The width whose `parameters` come nearest to those asked for; of two equally near, the smaller."""

    asked: int
    width: int
    parameters: int

    @property
    def sentence(self) -> str:
        off = abs(self.parameters - self.asked) / self.asked
        near = f"asked for {self.asked:,}, {100 * off:.1f} % off" if off else "as asked"
        return f"model.width = {self.width}: {self.parameters:,} parameters ({near})"


def match(study: FoundStudy, root: type[RunBase], tree: Mapping[str, Any], asked: object) -> Match:
    """The width for `tree`, a run's configuration without one.

    Raises `UserError` where `asked` is no whole number, where no width goes with the model's other keys, or where the
    models of all widths are larger or smaller than that.
    """
    if not re.fullmatch(r"[0-9]{1,30}", str(asked)):
        raise UserError(f"{MATCHED} = {asked}: expected a whole number of parameters")
    model = _Model(_class_of(root, tree["model"]), canonical(tree["model"]))
    smallest = model.at_least(1)
    if smallest is None:
        raise _refusal(root, tree)
    config = resolve(root, _with_width(tree, smallest))  # what else is wrong with the run is said here
    data = canonical([config.study.model_dump(mode="json"), dict(config.study.fingerprints())])
    if (key := (type(config.study), data)) not in _interfaces:
        with blamed_on(study.source):
            _interfaces[key] = build_study(config).interface
    return _match(model, _interfaces[key], int(str(asked)))


_interfaces: dict[Any, Interface] = {}  # a sweep asks for the same few at every point


@dataclass(frozen=True)
class _Model:
    """A model's configuration class and, as JSON, what is asked of it beside the width."""

    config: type[Config]
    tree: str

    def at(self, width: int) -> Config | None:
        try:
            return self.config.model_validate(json.loads(self.tree) | {"width": width})
        except ValidationError:
            return None

    def at_least(self, width: int) -> int | None:
        """The first width from `width` on that goes with the other keys."""
        return next((w for w in range(width, WIDEST + 1) if self.at(w)), None)

    def at_most(self, width: int) -> int | None:
        return next((w for w in range(width, 0, -1) if self.at(w)), None)


@cache
def _match(model: _Model, interface: Interface, asked: int) -> Match:
    @cache
    def parameters(width: int) -> int:
        return count(model.at(width), interface)

    smallest, largest = model.at_least(1), model.at_most(WIDEST)
    for width, side, outside in ((smallest, "least", asked < parameters(smallest)),
                                 (largest, "most", asked > parameters(largest))):  # fmt: skip
        if outside:
            bound = f"at {side} {parameters(width):,}, which model.width = {width} has"
            raise UserError(f"{MATCHED} = {asked}: expected {bound}")
    # More width is more parameters; a width that is not possible stands for the next one that is.
    widths = range(smallest, largest + 1)
    width = model.at_least(widths[bisect_left(widths, asked, key=lambda w: parameters(model.at_least(w)))])
    below = model.at_most(width - 1)
    nearer = below is not None and asked - parameters(below) <= parameters(width) - asked
    chosen = below if nearer else width
    return Match(asked, chosen, parameters(chosen))


def count(model: Config, interface: Interface) -> int:
    """The parameters of a model, counted without making room for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model.build(interface).parameters())


# ---------------------------------------------------------------- trees


def _with_width(tree: Mapping[str, Any], width: int) -> dict[str, Any]:
    return {**tree, "model": {**tree["model"], "width": width}}


def _class_of(root: type[RunBase], model: Mapping[str, Any]) -> type[Config]:
    """The configuration class that `model` names; the default's where it names none or one that does not exist."""
    field = root.model_fields["model"]
    classes = {kind_of(option): option for option in variants(field.annotation)}
    return classes.get(model.get("kind"), type(field.default))


def _refusal(root: type[RunBase], tree: Mapping[str, Any]) -> UserError:
    """Why no width goes with the other keys: of what is wrong at many widths, that in which they do not matter."""
    reasons: Counter[str] = Counter()
    for width in range(1, 257):
        try:
            resolve(root, _with_width(tree, width))
        except UserError as error:
            reasons[str(error)] += 1
    return UserError(f"{MATCHED}: no model.width is possible: {reasons.most_common(1)[0][0]}")
