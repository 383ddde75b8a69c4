"""A sweep whose runs live on s3://, carried out by local workers, seen and gone on with from another machine."""

from __future__ import annotations

from inlearn.runs.remote_root import open_root
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.folder import open_plan
from inlearn.sweeps.plan import Plan, with_overrides
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
    again = sweep(more, LocalConfig(workers=1), there, said.append)
    assert len(again.summary.results) == 1 and len(again.standings) == 3 and again.problem() is None, said
