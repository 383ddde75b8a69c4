"""A sweep whose runs live on s3://, carried out by local workers, seen and gone on with from another machine."""

from __future__ import annotations

import json

from inlearn.runs.lease import description
from inlearn.runs.remote_root import open_root
from inlearn.runs.remote_store import RemoteStore
from inlearn.sweeps import coordinate
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.folder import open_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.standing import standings
from inlearn.sweeps.sweep import sweep


def test_a_plan_on_a_bucket_is_known_everywhere(tiny, bucket, tmp_path, monkeypatch):
    plan = with_overrides(Plan(study="regression", name="far"), [*tiny, "seed=range(2)"])
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "here"))
    said: list[str] = []
    outcome = sweep(plan, LocalConfig(workers=1), open_root(bucket), said.append)
    assert outcome.problem() is None and len(outcome.summary.of("finished")) == 2, said
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "there"))
    there = open_root(bucket)
    known = open_plan(there, "far")
    assert [s.state for s in standings(there, known.runs)] == ["finished"] * 2
    more = with_overrides(plan, ["seed=range(3)"])
    # A machine far away has the third run, and leaves it when it is waited for.
    monkeypatch.setattr(coordinate, "REMOTE_WAIT_SECONDS", 0.2)
    store, lease = RemoteStore(bucket), f"{planned(more, there)[0][2].id}/lease.json"
    store.put(lease, json.dumps(description(1, "theirs") | {"host": "far", "beats": 1}).encode())

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("waiting for 1 run "):
            store.delete([lease])

    again = sweep(more, LocalConfig(workers=1), there, say)
    assert not store.list(lease) and any(text.startswith("waiting for") for text in said), said
    assert len(again.summary.results) == 1 and len(again.standings) == 3 and again.problem() is None, said
