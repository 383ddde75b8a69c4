"""Typed, frozen configuration: trees of plain values, `key=value` overrides, early refusal, a hash. No torch here.

A configurable thing has a `Config` in a torch-free file beside its code. Where several things can fill one place
(models, schedules), each has a `kind` and the field is a discriminated union of them, so the union is the registry.

Overrides follow the grammar that Hydra users know: `group=kind` chooses (and drops what was set for the former
choice), `a.b.c=value` sets. Values are handed to the field's type as text, so `1e-3` is a number where a number
belongs; a value that starts with `[` or `{` is JSON (or a Python literal); `none` is the empty value where one is
allowed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from inlearn.core.errors import UserError, unknown

Tree = dict[str, Any]
C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Frozen; unknown keys, NaN and infinities are errors; defaults are checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    SHAPELESS: ClassVar[frozenset[str]] = frozenset()
    """Dotted keys below this one that change no tensor's shape: runs that differ in them can be trained together."""

    STAND_INS: ClassVar[Mapping[str, str]] = {}
    """Keys that overrides and presets may give in place of a field's own, by that field: who composes a whole run
    resolves them (lab/config.py). Of a key and its stand-in the one given later counts."""


class StudyConfig(Config):
    """What the configuration of every study has beside its `kind`."""

    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Dotted keys below this one that say where data lies: no part of a run's identity, unlike its `fingerprints`."""

    def build(self, seeds: Any, batch: int | None = None) -> Any:
        """The live study; `seeds` says one seed a stream, `batch` the rows of a training step."""
        raise NotImplementedError

    @property
    def rows_an_epoch(self) -> int | None:
        """How many different rows training sees before they come round again; none: they never do."""
        return None

    def fingerprints(self) -> Mapping[str, str]:
        """Prepared data by name, as hashes of content: part of a run's identity, unlike the data's paths.

        Asked for every run of a plan, so it reads a stored manifest and builds nothing. Imports no torch.
        """
        return {}

    @classmethod
    def import_file(cls, source: Path, out: Path, say: Callable[[str], None]) -> None:
        """Write `out`, data that the study can be trained on, from a file of another system."""
        raise UserError(f"study {kind_of(cls)} knows no files of other systems")


# ---------------------------------------------------------------- what a field accepts


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of (nested, annotated, optional) unions; anything else is its own only member."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def variants(annotation: Any) -> list[type[Config]]:
    """The configuration classes that a field accepts; more than one means a choice by `kind`."""
    return [a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, Config)]


def kind_of(config: type[Config]) -> str | None:
    field = config.model_fields.get("kind")
    return None if field is None else field.default


def _accepts_none(annotation: Any) -> bool:
    return type(None) in _alternatives(annotation)


def _chosen(key: str, annotation: Any, node: Any, default: Any) -> type[Config] | None:
    """Which variant the keys below `key` belong to: the one named in the tree, else the default's, else the only."""
    options = variants(annotation)
    if len(options) <= 1:
        return options[0] if options else None
    kinds = {kind_of(option): option for option in options}
    given = node.get("kind") if isinstance(node, Mapping) else None
    given = given or getattr(default, "kind", None)
    if given is None:
        raise UserError(f"'{key}' needs a choice first: {key}={'|'.join(map(str, kinds))}")
    if given not in kinds:
        raise unknown(key, str(given), map(str, kinds))
    return kinds[given]


# ---------------------------------------------------------------- overrides


def split_override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"'{text}' is not key=value")
    return key.strip(), value.strip()


def _value(text: str, annotation: Any) -> Any:
    if text[:1] in ("[", "{"):
        return _nested(text)
    if text.lower() in ("none", "null") and _accepts_none(annotation):
        return None
    return text


def _nested(text: str) -> Any:
    """JSON; or the same things as Python writes them (`['a', None]`), for so a W&B agent hands them over."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        refusal = UserError(f"'{text}' starts like JSON but is not: {error}")
    try:
        # Reads literals and evaluates nothing. The round trip refuses what JSON has no word for (sets, bytes).
        value = ast.literal_eval(text)
        if json.loads(json.dumps(value)) == value:
            return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    raise refusal


def assign(root: type[Config], tree: Tree, key: str, text: str) -> None:
    """Set `key` (dotted) of `tree`, a partial configuration of class `root`, to what `text` says."""
    config, node, path = root, tree, key.split(".")
    for depth, name in enumerate(path):
        parent = ".".join(path[:depth])
        if name in config.STAND_INS:
            if depth < len(path) - 1:
                raise UserError(f"'{'.'.join(path[: depth + 1])}' is a value, so '{key}' does not exist")
            node.pop(config.STAND_INS[name], None)
            node[name] = text
            return
        if name not in config.model_fields:
            raise unknown("key", name, _names(config), f"{parent}." if parent else "")
        field = config.model_fields[name]
        here = ".".join(path[: depth + 1])
        if depth == len(path) - 1:
            for stand_in in (key for key, meant in config.STAND_INS.items() if meant == name):
                node.pop(stand_in, None)
            node[name] = _leaf(here, text, field.annotation, node.get(name))
            return
        default = field.default  # not a copy, which costs a fifth of planning: configurations are frozen
        chosen = _chosen(here, field.annotation, node.get(name), default)
        if chosen is None:
            raise UserError(f"'{here}' is a value, so '{key}' does not exist; set {here}=… itself")
        if not isinstance(node.get(name), dict):
            # One key of a default is changed: its other keys stay what they are.
            node[name] = default.model_dump(exclude_unset=True) if isinstance(default, chosen) else {}
        if kind_of(chosen) is not None:
            node[name].setdefault("kind", kind_of(chosen))
        config, node = chosen, node[name]


def _names(config: type[Config]) -> list[str]:
    """Every key that an override may give directly below a configuration."""
    return [*config.model_fields, *config.STAND_INS]


def _leaf(key: str, text: str, annotation: Any, current: Any) -> Any:
    """The value at the end of a key; for a choice by kind, `group=kind` starts that group afresh."""
    kinds = [kind_of(option) for option in variants(annotation) if kind_of(option)]
    if not kinds or text[:1] == "{" or (text.lower() == "none" and _accepts_none(annotation)):
        return _value(text, annotation)
    if text not in kinds:
        raise unknown(key, text, kinds)
    return current if isinstance(current, dict) and current.get("kind") == text else {"kind": text}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`over` laid on `base`, mappings key by key; another `kind` replaces its whole mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = merge(old, value)
        else:
            merged[key] = merge({}, value) if isinstance(value, Mapping) else value
    return merged


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; an empty mapping is one."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


# ---------------------------------------------------------------- from tree to configuration


def resolve(root: type[C], tree: Mapping[str, Any]) -> C:
    """The typed configuration, or a `UserError` that names the key, the value, and what was expected."""
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(root, tree, error)) from None


def _explain(root: type[Config], tree: Mapping[str, Any], error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    # A misspelt key is told before the missing one that it was meant to be.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    key = _dotted(tree, first["loc"])
    if first["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        known = _fields_at(root, tree, parent.split(".") if parent else [])
        return str(unknown("key", name, known, f"{parent}." if parent else ""))
    # A union of a number and a word fails once a member; name them together.
    reasons = [e["msg"] for e in errors if _dotted(tree, e["loc"]) == key]
    wanted = " or ".join(
        dict.fromkeys(r.removeprefix("Value error, ").removeprefix("Input should be ") for r in reasons)
    )
    if first["type"] == "missing":
        return f"{key} is missing: {wanted}"
    if first["type"] == "value_error":
        return f"{key}: {wanted}" if key else wanted
    given = first["input"]
    return f"{key} = {given if isinstance(given, str) else json.dumps(given, default=str)}: expected {wanted}"


def _dotted(tree: Any, location: Sequence[str | int]) -> str:
    """pydantic's location as the user wrote it: union tags and type names are not keys of the tree."""
    names = []
    for part in location:
        if isinstance(tree, Mapping) and part in tree:
            names.append(str(part))
            tree = tree[part]
        elif isinstance(part, int):
            names.append(str(part))
            tree = tree[part] if isinstance(tree, Sequence) and part < len(tree) else None
        elif part == location[-1] and isinstance(tree, Mapping) and part != tree.get("kind") and part.isidentifier():
            names.append(part)
    return ".".join(names)


def _fields_at(root: type[Config], tree: Any, path: Sequence[str]) -> list[str]:
    config, options = root, [root]
    for name in path:
        if isinstance(tree, Sequence) and name.isdigit():  # a place in a list: its members' class is known already
            tree = tree[int(name)]
        else:
            field = config.model_fields.get(name)
            tree = tree.get(name) if isinstance(tree, Mapping) else None
            annotation = field.annotation if field else Config
            members = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else (annotation,)
            options = variants(members[0])
        kind = tree.get("kind") if isinstance(tree, Mapping) else None
        config = next((option for option in options if kind_of(option) == kind), (options or [Config])[0])
    return _names(config)


# ---------------------------------------------------------------- identity


def canonical(content: Any) -> str:
    """One text for one meaning: sorted keys, no spaces, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(content: Any) -> str:
    """The first 12 hexadecimal digits of the canonical form's sha256."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:12]
