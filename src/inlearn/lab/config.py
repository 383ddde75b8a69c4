"""The whole of what a run is asked to be: composition, checks, identity. Imports no torch.

Order: defaults < preset < group choice (`model=lstm` drops the preset's model keys) < dotted keys. A key that the
run itself does not have is looked up in its study: `task.count=16` is `study.task.count=16`. `model.match_params` is
no key of a run: it is resolved here to the model.width that is stored and hashed (matching.py), and `training.epochs`
to training.steps (epochs.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import Field, PositiveInt, create_model, field_validator

from inlearn.core.configuration import (
    Config,
    StudyConfig,
    Tree,
    assign,
    digest,
    kind_of,
    merge,
    resolve,
    split_override,
    variants,
)
from inlearn.core.errors import EnvironmentFault, UserError, unknown
from inlearn.lab import discovery
from inlearn.lab.epochs import in_steps
from inlearn.training.config import Record, Training

NUMERICS = 1
"""Raised whenever our code changes what a run computes (a test of stored losses forces it): old ids stay apart."""


Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


class Seeds(Config):
    """One seed a stream. Streams follow `seed` unless given; `eval` is the same for every run, so it has its own."""

    init: Seed | None = None
    task: Seed | None = None
    data: Seed | None = None
    noise: Seed | None = None
    dropout: Seed | None = None
    chain: Seed | None = None
    eval: Seed = 0

    def following(self, seed: int) -> Seeds:
        return Seeds(**{name: seed if value is None else value for name, value in self.model_dump().items()})


class Execution(Config):
    """Where a run is carried out. Recorded with every start, never hashed.

    engine: whether the model is trained alone or as a member of a stack (which may have one member); `auto` goes on as
    the run was begun, and begins alone. Sweeps stack runs by themselves.
    parallel: how several processes (torchrun) hold one model; `auto` is ddp where there are several, else none.
    step: how updates are made: `eager`, operation by operation; `graphs`, each as one CUDA graph; `compiled`, forward
    and backward as one C++ function (on a CPU). `auto` goes on as the run was begun; it begins with graphs on a GPU,
    and on a CPU compiled where many steps are ahead, else eager.
    matmul: how float32 products are computed; `tf32` is quicker on CUDA and keeps 10 bits of mantissa.
    kernels: what computes the recurrences of linear_attention, gated_deltanet and mamba: `torch`, or the kernels of a
    `library` (flash-linear-attention, mamba-ssm); `auto` takes the library's on CUDA where it is installed.
    """

    device: str = "auto"
    threads: PositiveInt = 1
    engine: Literal["auto", "solo", "stacked"] = "auto"
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    step: Literal["auto", "eager", "compiled", "graphs"] = "auto"
    matmul: Literal["float32", "tf32"] = "float32"
    kernels: Literal["auto", "torch", "library"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Track(Config):
    """Trackers that hear what a run writes into its folder. Never hashed.

    wandb: `auto` does what WANDB_MODE says; without it, online below a W&B agent, else nothing.
    project, entity: none means WANDB_PROJECT and WANDB_ENTITY. tensorboard: event files in `<run>/tensorboard/`.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    tensorboard: bool = False


class RunBase(Config):
    """What every run has, whatever its study."""

    training: Training = Training()
    seed: Seed = 0
    seeds: Seeds = Seeds()
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    start: str | None = None
    record: Record = Record()
    execution: Execution = Execution()
    track: Track = Track()
    preset: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()

    @field_validator("start")
    @classmethod
    def _names_a_checkpoint(cls, start: str | None) -> str | None:
        if start is not None and not re.fullmatch(r".+@(best|last|\d+)", start):
            raise ValueError(f"start = {start}: expected RUN@best, RUN@last or RUN@STEP")
        return start


UNHASHED = {"record", "execution", "track", "preset", "name", "tags", "seed"}
SHORT = {
    "device": "execution.device",
    "threads": "execution.threads",
    "engine": "execution.engine",
    "log_level": "execution.log_level",
}

MATCH, MATCHED = "match_params", "model.match_params"
TWO_WIDTHS = "model.match_params = {} and model.width = {}: the first picks the second; expected one of them"


@cache
def run_config(study: type[Config]) -> type[RunBase]:
    """The configuration class of runs of one study: its own fields beside the union of all models."""
    models = tuple(discovery.models().values())
    model = Annotated[Union[models], Field(discriminator="kind")] if len(models) > 1 else models[0]  # noqa: UP007
    default = discovery.models()["transformer"]()
    if clash := set(study.model_fields) & (set(RunBase.model_fields) | {"study", "model"} | set(SHORT)):
        raise UserError(f"study '{kind_of(study)}' has fields that a run has already: {', '.join(sorted(clash))}")
    return create_model("RunConfig", __base__=RunBase, study=(study, ...), model=(model, default))


def compose(
    study: discovery.FoundStudy,
    overrides: Sequence[str],
    base: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> RunBase:
    """The checked configuration that `overrides` ask for. `base` takes the place of defaults (an earlier run's).

    `say` hears which width `model.match_params` became.
    """
    root = run_config(study.config)
    pairs = [split_override(text) for text in overrides]
    tree: dict[str, Any] = merge({"study": {"kind": study.kind}}, base or {})
    for key, value in pairs:
        if key == "preset":
            if value not in study.presets:
                raise unknown("preset", value, study.presets)
            tree = merge(tree, {k: v for k, v in study.presets[value].items() if k != "about"}) | {"preset": value}
    _fill_kind(tree, root)
    dotted = [(full_key(key, root), value) for key, value in pairs if key != "preset"]
    _refuse_repeats(dotted)
    for key, value in sorted(dotted, key=lambda pair: pair[0].count(".") > 0):  # group choices before dotted keys
        if reads_as_axis(value):
            raise UserError(f"{key}={value} reads as a sweep axis; a run takes one value (use `inlearn sweep`)")
        assign(root, tree, key, value)
        _fill_kind(tree, root)
    given = {key for key, _ in dotted}
    if "training.phases" in given and "training.epochs" not in given and tree["training"]["phases"]:
        tree.get("training", {}).pop("epochs", None)  # a preset's: phases have lengths of their own
    tree = in_steps(root, tree, say)
    config = _matched(study, root, tree, say) if MATCH in tree.get("model", {}) else resolve(root, tree)
    idle = {f"model.{field}": why for field, why in config.model.idle().items()}
    for key, value in dotted:  # a preset may set them: who lays model.mlp=0 on it asked for no activation
        if key in idle:
            raise UserError(f"{key} = {value} has no effect: {idle[key]}")
    return config


def _fill_kind(tree: dict[str, Any], root: type[RunBase]) -> None:
    """A preset or JSON that names no kind of model means the default's, as a dotted key does."""
    if isinstance(model := tree.get("model"), Mapping) and "kind" not in model:
        tree["model"] = {"kind": root.model_fields["model"].default.kind, **model}


def _matched(
    study: discovery.FoundStudy, root: type[RunBase], tree: Mapping[str, Any], say: Callable[[str], None]
) -> RunBase:
    """The configuration of the width that `model.match_params` in `tree` means."""
    from inlearn.lab.matching import match  # builds models, hence torch

    model = {key: value for key, value in tree["model"].items() if key != MATCH}
    if "width" in model:
        raise UserError(TWO_WIDTHS.format(tree["model"][MATCH], model["width"]))
    found = match(study, root, {**tree, "model": model}, tree["model"][MATCH])
    say(found.sentence)
    return resolve(root, {**tree, "model": {**model, "width": found.width}})


def full_key(key: str, root: type[Config]) -> str:
    """The one spelling of a key of a run: short forms written out, a study's own keys below `study.`."""
    key = SHORT.get(key, key)
    first = key.partition(".")[0]
    if first in root.model_fields:
        return key
    study = root.model_fields["study"].annotation
    if first in study.model_fields:
        return f"study.{key}"
    nested = {name.removeprefix("study.") for name in dotted_keys(root)}
    same_end = [name for name in nested if get_close_matches(key, [name.rpartition(".")[2]], 1, 0.75)]
    if "." not in key and same_end:
        raise UserError(f"unknown key '{key}'; did you mean '{min(same_end, key=len)}'?")
    near = nested if "." in key else {*root.model_fields, *study.model_fields}
    raise unknown("key", key, {*near, *SHORT, "preset"})


def dotted_keys(config: type[Config], prefix: str = "") -> set[str]:
    """Every key that can be set below a configuration, through all variants of its choices."""
    found = set()
    for name, field in config.model_fields.items():
        found.add(prefix + name)
        for variant in variants(field.annotation):
            found |= dotted_keys(variant, f"{prefix}{name}.")
    return found | {prefix + name for name in config.STAND_INS}


def _refuse_repeats(pairs: Sequence[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for key, value in pairs:
        if seen.setdefault(key, value) != value:
            raise UserError(f"{key} is given twice: {seen[key]} and {value}")
    if {MATCHED, "model.width"} <= seen.keys():
        raise UserError(TWO_WIDTHS.format(seen[MATCHED], seen["model.width"]))
    if {"training.epochs", "training.steps"} <= seen.keys():
        epochs, steps = seen["training.epochs"], seen["training.steps"]
        raise UserError(
            f"training.epochs = {epochs} and training.steps = {steps}: the first gives the second; expected one"
        )


AXIS = re.compile(r"(range|powers|linspace|logspace|subsets)\(.*\)", re.DOTALL)


def reads_as_axis(value: str) -> bool:
    """Whether a text on the command line means several values (sweeps/axes.py says which)."""
    return bool(AXIS.fullmatch(value.strip())) or ("," in value and value[:1] not in "[{")


# ---------------------------------------------------------------- identity


def identity(config: RunBase, study: discovery.FoundStudy, parent: str | None) -> dict:
    """The content whose canonical form's hash names the run: what was asked, never where or how fast."""
    asked = config.model_dump(mode="json", exclude=UNHASHED | {"start", "seeds", "training"})
    training = config.training.model_dump(mode="json", exclude={"until"})
    _take_places(config.study, asked["study"])
    content = {
        "numerics": NUMERICS,
        **asked,
        "training": training,
        "seeds": config.seeds.following(config.seed).model_dump(),
        "start": parent,
        "data": dict(config.study.fingerprints()),
    }
    return content if study.fingerprint is None else {**content, "source": study.fingerprint}


def stored(config: RunBase, content: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: what was asked (hashed to the id) beside what only says how it was carried out."""
    unhashed = config.model_dump(mode="json", include=UNHASHED) | {"until": config.training.until}
    if places := _take_places(config.study, config.study.model_dump(mode="json")):
        unhashed["places"] = places
    return {"id": digest(content), "config": dict(content), "unhashed": unhashed}


def _take_places(study: StudyConfig, tree: Tree) -> dict[str, str]:
    """Take the keys that say where data lies out of the study's tree, and give them with their values."""
    taken = {}
    for key in sorted(study.PLACES):
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.get(group, {})
        if last in node:  # not every variant of a group has the key
            taken[key] = node.pop(last)
    return taken


def restored(study: discovery.FoundStudy, document: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunBase:
    """The configuration that `stored` wrote, with `overrides` of what is not hashed (until, record, track, …)."""
    asked, unhashed = document["config"], document["unhashed"]
    if digest(asked) != document["id"]:
        raise EnvironmentFault(f"config.json of run {document['id']} was changed: it now reads as run {digest(asked)}")
    tree = {key: asked[key] for key in ("study", "model", "precision", "seeds", "start")}
    tree |= {"training": {**asked["training"], "until": unhashed["until"]}}
    tree |= {key: unhashed[key] for key in UNHASHED if key in unhashed}
    for key, value in unhashed.get("places", {}).items():
        for name in reversed(key.split(".")):
            value = {name: value}
        tree["study"] = merge(tree["study"], value)
    free = {"training.until", *study.config.PLACES, *(f"study.{key}" for key in study.config.PLACES)}
    for text in overrides:
        key = split_override(text)[0]
        full = SHORT.get(key, key)
        if full not in free and full.partition(".")[0] not in ("record", "execution", "track", "name", "tags"):
            places = "".join(f"{key}, " for key in sorted(study.config.PLACES))
            allowed = f"training.until, {places}record.*, execution.*, track.*, name or tags"
            raise UserError(f"{key} is part of what the run is; on resume change {allowed}")
    return compose(study, overrides, tree)
