"""Studies and models are found by looking into their folders; there is no list to edit. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from inlearn.core.configuration import Config, StudyConfig, kind_of
from inlearn.core.errors import UserError, unknown


@dataclass(frozen=True)
class FoundStudy:
    """A study by name: its configuration class, its presets, and the text of its file when a user brought it."""

    kind: str
    config: type[StudyConfig]
    presets: Mapping[str, Mapping[str, Any]]
    folder: Path
    source: Path | None = None

    @property
    def fingerprint(self) -> str | None:
        return None if self.source is None else hashlib.sha256(self.source.read_bytes()).hexdigest()


@cache
def studies() -> dict[str, FoundStudy]:
    """Every folder of `inlearn.studies` with a config.py."""
    package = importlib.import_module("inlearn.studies")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            continue
        name = f"inlearn.studies.{module.name}"
        config = _only_config(importlib.import_module(f"{name}.config"), StudyConfig)
        presets = getattr(importlib.import_module(f"{name}.presets"), "PRESETS", {})
        kind = kind_of(config)
        found[kind] = FoundStudy(kind, config, presets, Path(package.__path__[0]) / module.name)
    return found


@cache
def models() -> dict[str, type[Config]]:
    """Every `*_config.py` of `inlearn.models`."""
    package = importlib.import_module("inlearn.models")
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name.endswith("_config")]
    configs = [_only_config(importlib.import_module(f"inlearn.models.{name}"), Config) for name in names]
    return {kind_of(config): config for config in configs}


@cache
def analyses() -> dict[str, type[Config]]:
    """Every folder of `inlearn.analysis` with a config.py."""
    package = importlib.import_module("inlearn.analysis")
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg]
    configs = [_only_config(importlib.import_module(f"inlearn.analysis.{name}.config"), Config) for name in names]
    return {kind_of(config): config for config in configs}


def study(name: str) -> FoundStudy:
    """The study called `name`, or the one in the single file that `name` is the path of."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in studies():
        raise unknown("study", name, studies())
    return studies()[name]


def _from_file(path: Path) -> FoundStudy:
    if not path.is_file():
        raise UserError(f"study {path}: no such file")
    name = f"inlearn_user_study_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UserError(f"study {path} cannot be imported: {type(error).__name__}: {error}") from error
    module = sys.modules[name]
    config = _only_config(module, StudyConfig)
    return FoundStudy(kind_of(config), config, getattr(module, "PRESETS", {}), path.parent, path)


def _only_config(module: ModuleType, base: type[Config]) -> type[Any]:
    """The one configuration of class `base` with a `kind` that is defined in `module` and can build something."""
    own = [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, base)
        and v.__module__ == module.__name__
        and kind_of(v)
        and hasattr(v, "build")
    ]
    if len(own) != 1:
        where = getattr(module, "__file__", module.__name__)
        raise UserError(
            f"{where} must define exactly one {base.__name__} with a kind and build(); it defines {len(own)}"
        )
    return own[0]
