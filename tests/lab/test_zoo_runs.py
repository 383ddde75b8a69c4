"""Every registered model as a run: taken up where it was stopped, trained alone or in company, with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from inlearn.lab import discovery
from inlearn.lab.session import resume, start
from inlearn.lab.stacked import start_together

OTHER = [kind for kind in discovery.models() if kind != "transformer"]  # tests of resume and stacks are about it
SMALL = (
    "model.width=8",
    "model.layers=2",
    "model.dropout=0.1",
    "task.dimension=2",
    "task.examples=3",
    "training.batch=6",
    "training.steps=12",
    "record.training=5",
    'record.evaluations={"kind":"every","steps":6}',
    'record.checkpoints={"kind":"every","steps":4}',
    "evaluation.rows=20",
    "evaluation.gain_rows=4",
)
PER_PROCESS = {"environment.json", "run.log", ".lease.lock", "config.json"}


def quiet(text: str) -> None:
    pass


def contents(path: Path) -> dict[str, bytes]:
    files = (p for p in path.rglob("*") if p.is_file() and p.name not in PER_PROCESS)
    found = {str(p.relative_to(path)): p.read_bytes() for p in files}
    assert "checkpoints/000000012/weights.safetensors" in found
    return found


@pytest.mark.parametrize("kind", OTHER)
def test_stopped_and_taken_up(kind: str, tmp_path: Path) -> None:
    asked = [f"model={kind}", *SMALL]
    whole = start("regression", asked, tmp_path / "whole", quiet)
    parts = start("regression", [*asked, "training.until=7"], tmp_path / "parts", quiet)
    resume(parts.id, ["training.until=none"], tmp_path / "parts", quiet)
    assert contents(parts.path) == contents(whole.path)


@pytest.mark.parametrize("kind", OTHER)
def test_together_and_alone(kind: str, tmp_path: Path) -> None:
    words = [[f"model={kind}", *SMALL, own] for own in ("seed=1", "training.rate=0.003", "task.noise_variance=2")]
    ends = start_together("regression", words, tmp_path / "many", quiet)
    for own, end in zip(words, ends, strict=True):
        assert end.state == "finished"
        alone = start("regression", [*own, "engine=stacked"], tmp_path / "alone", quiet)
        assert contents(tmp_path / "many" / end.id) == contents(alone.path)
