"""A stack whose runs live in a bucket: each sends its own, and one that another machine holds stays away."""

from __future__ import annotations

from pathlib import Path

from inlearn.lab.object_storage import kept_remotely
from inlearn.lab.session import start
from inlearn.lab.stacked import start_together
from inlearn.runs.folder import RunFolder
from inlearn.runs.remote_root import open_root


def quiet(text: str) -> None:
    pass


def results(path: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "references.jsonl", "weights.safetensors", "optimiser.safetensors", "state.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.name in names}


def test_members_send_their_own_and_go_on_elsewhere(bucket, tiny, tmp_path, monkeypatch):
    words = [[*tiny, f"seed={seed}"] for seed in range(3)]
    here = open_root(bucket)
    held = start("regression", [*words[1], "training.until=15", "engine=stacked"], here, quiet)
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "elsewhere"))
    elsewhere = open_root(bucket)
    said: list[str] = []
    with kept_remotely(here, held.id, quiet):
        ends = start_together("regression", [[*w, "training.until=30"] for w in words], elsewhere, said.append)
    assert [end.state for end in ends] == ["finished", "busy", "finished"]
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "third"))
    third = open_root(bucket)
    ends = start_together("regression", words, third, quiet)
    assert [end.state for end in ends] == ["finished"] * 3
    forms = [[(s["from_step"], s["members"]) for s in RunFolder(third / end.id).segments] for end in ends]
    assert forms == [[(0, 3), (30, 3)], [(0, 1), (15, 3)], [(0, 3), (30, 3)]]
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "reader"))
    reader = open_root(bucket)
    for own in words:
        alone = start("regression", [*own, "engine=stacked"], tmp_path / "alone", quiet).path
        start("regression", own, reader, quiet)  # fetches a run that is done
        fetched, expected = results(reader / alone.name), results(alone)
        assert len(fetched) > 4 and all(expected[name] == data for name, data in fetched.items())
