"""Checkpoints: `checkpoints/<step>/` folders that are whole or absent, and checked byte by byte when read.

000001000/weights.safetensors    the model's parameters by name
000001000/optimiser.safetensors  whatever else training carries as tensors
000001000/state.json             whatever else training carries as plain values
000001000/manifest.json          size and sha256 of the three, lengths of growing files, its own seal
best.json                        which step is best so far, by which measure
damaged/<step>-<n>/              what failed its check and was set aside
warnings.jsonl                   one line for each of those
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import Tensor

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import machine_faults, new_folder, read_json, write_json
from inlearn.runs.lines import MetricsWriter

STEP = re.compile(r"\d{9,}")
REPLACED = ".replaced"
PARTS = ("weights.safetensors", "optimiser.safetensors", "state.json")


class Damaged(EnvironmentFault):
    """A checkpoint is not what was written."""


@dataclass
class Checkpoint:
    """All that a run needs to go on after update `step`. `state` holds plain JSON values."""

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of the run folder `run`. Writing methods are for the holder of the run's lease."""

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints"

    def folder(self, step: int) -> Path:
        return self.path / f"{step:09d}"

    # ------------------------------------------------------------ writing

    def save(self, checkpoint: Checkpoint, lengths: dict[str, int]) -> None:
        """Write aside, flush, rename; a checkpoint of the same step is replaced.

        `lengths` says how much of the run's growing files belongs to this checkpoint: bytes by path relative to
        the run folder ("metrics.jsonl"), and rows for "trajectory". Flush those files to disk first. Tensors may
        live on any device and be views of one buffer; equal storage under two names is refused by safetensors.
        """
        parts = {
            "weights.safetensors": _serialised(checkpoint.weights),
            "optimiser.safetensors": _serialised(checkpoint.optimiser),
            "state.json": json.dumps(checkpoint.state, allow_nan=False, ensure_ascii=False).encode(),
        }
        manifest = {
            "step": checkpoint.step,
            "files": {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in parts.items()},
            "lengths": lengths,
        }
        folder = self.folder(checkpoint.step)
        with machine_faults(folder):
            try:
                with new_folder(folder) as aside:
                    for name, content in parts.items():
                        (aside / name).write_bytes(content)
                    (aside / "manifest.json").write_text(json.dumps(manifest | {"seal": _seal(manifest)}, indent=1))
                    if folder.exists():
                        folder.rename(folder.with_name(folder.name + REPLACED))
            finally:
                self._mend()

    def _mend(self) -> None:
        """Finish a replacement, or undo one that an error or a kill cut short."""
        for replaced in self.path.glob(f"*{REPLACED}"):
            folder = replaced.with_name(replaced.name.removesuffix(REPLACED))
            if folder.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(folder)

    def remove(self, step: int) -> None:
        """Delete the checkpoint of `step`: at once out of sight, then from the disk."""
        with machine_faults(self.folder(step)):
            aside = self.path / f".{step:09d}.{uuid.uuid4().hex[:8]}.aside"
            self.folder(step).rename(aside)
            shutil.rmtree(aside)

    # ------------------------------------------------------------ reading

    def steps(self, complete: bool = True) -> list[int]:
        """The steps that have a checkpoint, ascending; with `complete=False` also folders without a manifest.

        Nothing is read, so a checkpoint may still turn out to be damaged.
        """
        if not self.path.is_dir():
            return []
        folders = [folder for folder in self.path.iterdir() if STEP.fullmatch(folder.name)]
        return sorted(int(folder.name) for folder in folders if not complete or (folder / "manifest.json").exists())

    def manifest(self, step: int) -> dict[str, Any]:
        """`step`, `files`, `lengths`, `seal`. Raises `UserError` without such a step, `Damaged` if it is broken."""
        folder = self.folder(step)
        if not folder.is_dir():
            raise UserError(self._no_such_step(step))
        try:
            manifest = read_json(folder / "manifest.json")
        except FileNotFoundError:
            raise Damaged(f"{folder} is damaged: manifest.json is missing") from None
        except EnvironmentFault as error:
            raise Damaged(str(error)) from None
        seal = manifest.pop("seal", None) if isinstance(manifest, dict) else None
        if seal is None or seal != _seal(manifest) or manifest["step"] != step:
            raise Damaged(f"{folder / 'manifest.json'} is damaged: it is not what was written")
        return manifest | {"seal": seal}

    def _no_such_step(self, step: int) -> str:
        steps = self.steps()
        near = sorted(sorted(steps, key=lambda known: abs(known - step))[:3])
        hint = f"nearest: {', '.join(map(str, near))}" if near else "there are none"
        return f"no checkpoint at step {step} in {self.path}; {hint}"

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, on the CPU, each of its bytes checked. Raises what `manifest` raises."""
        return self._load(step, self.manifest(step))

    def _load(self, step: int, manifest: dict[str, Any]) -> Checkpoint:
        parts = {name: _checked(self.folder(step) / name, **manifest["files"][name]) for name in PARTS}
        weights, optimiser = (tensors_from_bytes(parts[name]) for name in PARTS[:2])
        return Checkpoint(step, weights, optimiser, json.loads(parts["state.json"]))

    def load_last_good(self, say: Callable[[str], None]) -> tuple[Checkpoint, dict[str, Any]] | None:
        """The newest whole checkpoint and its manifest; None only where none was ever kept.

        A damaged one is set aside, told to `say` and recorded. Raises `EnvironmentFault` if all are damaged:
        starting afresh is the user's decision.
        """
        with machine_faults(self.path):
            self._mend()
        for step in reversed(self.steps(complete=False)):
            try:
                manifest = self.manifest(step)
                loaded = self._load(step, manifest)
            except Damaged as error:
                self._set_aside(step, str(error), say)
                continue
            best = self.best()
            if best is not None and best["step"] > step:  # of the part that will be trained again
                (self.path / "best.json").unlink()
            return loaded, manifest
        if (self.path / "damaged").exists():
            raise EnvironmentFault(
                f"every checkpoint in {self.path} is damaged (kept in {self.path / 'damaged'}); "
                "delete the run folder to train from the start"
            )
        return None

    def _set_aside(self, step: int, problem: str, say: Callable[[str], None]) -> None:
        with machine_faults(self.path / "damaged"):
            (self.path / "damaged").mkdir(exist_ok=True)
            times = len(list((self.path / "damaged").glob(f"{step:09d}-*")))
            kept = self.path / "damaged" / f"{step:09d}-{times}"
            self.folder(step).rename(kept)
        line = {"step": step, "problem": problem, "kept": str(kept.relative_to(self.path))}
        warnings = MetricsWriter(self.path / "warnings.jsonl")
        warnings.write(line)
        warnings.close()
        say(f"checkpoint {step} is left out: {problem} (kept as {kept})")

    # ------------------------------------------------------------ best

    def best(self) -> dict[str, Any] | None:
        """`step`, `measure` and `value` of the best checkpoint so far, or None."""
        path = self.path / "best.json"
        return read_json(path) if path.exists() else None

    def set_best(self, step: int, measure: str, value: float) -> None:
        write_json(self.path / "best.json", {"step": step, "measure": measure, "value": value})


def _serialised(tensors: dict[str, Tensor]) -> bytes:
    return bytes_from_tensors({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def _seal(manifest: dict[str, Any]) -> str:
    """The manifest's own sha256: a flipped bit in a length would otherwise cut the wrong lines."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checked(path: Path, bytes: int, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is damaged: it is missing") from None
    if len(content) != bytes:
        raise Damaged(f"{path} is damaged: {len(content)} bytes instead of {bytes}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path} is damaged: its sha256 is not the one in the manifest")
    return content
