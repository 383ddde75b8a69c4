from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inlearn.core.configuration import digest
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter
from inlearn.runs.trajectory import Trajectory
from inlearn.runs.verify import verify

NO_ROWS = ["0 rows, but checkpoint 1 ", "0 rows, but checkpoint 2 "]


@pytest.fixture
def sound(tmp_path: Path) -> RunFolder:
    identity = {"config": {"seed": 1}, "numerics": 1}
    config = {"id": digest(identity), "config": identity}
    run = RunFolder.create(tmp_path, digest(identity), config, {"kind": "regression"})
    metrics, store = MetricsWriter(run.path / "metrics.jsonl"), CheckpointStore(run.path)
    trajectory = Trajectory(run.path / "trajectory", [("weight", (2, 3))])
    for step in (1, 2):
        metrics.write({"event": "training", "step": step, "loss": 2.0})
        trajectory.append(step, torch.ones(6))
        lengths = {"metrics.jsonl": metrics.flush(), "trajectory": trajectory.sync()}
        store.save(Checkpoint(step, {"weight": torch.ones(2, 3)}, {}, {}), lengths)
    store.set_best(1, "loss", 2.0)
    metrics.close()
    trajectory.close()
    return run


def test_a_sound_run_has_no_problems(sound: RunFolder) -> None:
    assert verify(sound) == []
    with (sound.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event":"trai')  # half a line is what a run looks like while it is written
    assert verify(sound) == []


@pytest.mark.parametrize(
    ("file", "content", "messages"),
    [
        ("config.json", b"{", ["config.json is damaged"]),
        ("config.json", None, ["config.json is missing"]),
        ("study.json", None, ["study.json is missing"]),
        ("status.json", b"", ["status.json is damaged"]),
        ("checkpoints/best.json", b"?", ["best.json is damaged"]),
        ("references.jsonl", b"{}\nx\n", ["references.jsonl is damaged in line 2"]),
        ("metrics.jsonl", b"", ["0 bytes, but checkpoint 1 ", "0 bytes, but checkpoint 2 "]),
        ("metrics.jsonl", None, ["0 bytes, but checkpoint 1 ", "0 bytes, but checkpoint 2 "]),
        ("checkpoints/000000002/weights.safetensors", b"x", ["weights.safetensors is damaged: 1 bytes instead"]),
        ("checkpoints/000000001/manifest.json", None, ["000000001 is damaged: manifest.json is missing"]),
        ("trajectory/layout.json", b"[", ["layout.json is damaged"]),
        ("trajectory/layout.json", None, ["layout.json is missing", *NO_ROWS]),
        ("trajectory/rows.jsonl", b"", NO_ROWS),
        ("trajectory/weights.f32", b"\0" * 48, ["weights of step 1 are damaged", "weights of step 2 are damaged"]),
        ("trajectory/weights.f32", b"\0\0\x80\x3f" * 6, ["1 rows, but checkpoint 2 ", "ends after 1 of 2 rows"]),
    ],
)
def test_every_kind_of_damage_is_told(sound: RunFolder, file: str, content: bytes | None, messages: list[str]) -> None:
    if content is None:
        (sound.path / file).unlink()
    else:
        (sound.path / file).write_bytes(content)
    problems = verify(sound)
    assert len(problems) == len(messages)
    for message in messages:
        assert any(message in problem for problem in problems)


def test_an_edited_configuration_no_longer_has_its_id(sound: RunFolder) -> None:
    path = sound.path / "config.json"
    config = json.loads(path.read_text())
    config["config"]["numerics"] = 2
    path.write_text(json.dumps(config))
    (problem,) = verify(sound)
    assert digest(config["config"]) in problem


def test_a_folder_under_another_runs_id_is_told(sound: RunFolder) -> None:
    moved = sound.path.rename(sound.path.parent / "000000000000")
    assert verify(RunFolder(moved)) == [f"{moved} holds the run {sound.id}"]
