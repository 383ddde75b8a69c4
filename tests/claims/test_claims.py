"""Claims are read strictly, checked against real runs, and kept with what made them."""

from __future__ import annotations

import json

import pytest

from inlearn.claims.check import check
from inlearn.claims.claim import Claim, all_claims
from inlearn.claims.results import keep, latest
from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import compose


def document(tiny, **more) -> dict:
    asked = list(tiny)
    return {
        "id": "regression/test", "title": "A test", "source": "nobody", "tier": "seconds", "study": "regression",
        "runs": [{"label": "a", "overrides": asked, "seeds": [0, 1], "x": 1.0},
                 {"label": "b", "overrides": [*asked, "task.count=4"], "x": 4.0}],
        "checks": [
            {"what": "loss", "run": "a", "read": {}, "published": 2.0, "band": [0.1, 10.0]},
            {"what": "mean", "run": "a", "read": {"at": {"position": 1}, "step": 20}, "over": "mean",
             "band": [None, 10.0]},
            {"what": "difference", "run": "b", "read": {"measure": "distance", "reference": "ridge"},
             "minus": {"measure": "distance", "reference": "ridge"}, "band": [0.0, 0.0]},
            {"what": "parameters", "quantity": {"name": "parameters", "arguments": {"overrides": ["preset=paper-lr"]}},
             "band": [51717, 51717]},
        ],
        "chart": {"x": "tasks", "y": "loss", "series": [{"name": "loss", "read": {}}]},
        **more,
    }  # fmt: skip


def test_a_claim_end_to_end(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim = resolve(Claim, document(tiny))
    result = check(claim, tmp_path / "runs", lambda text: None)
    assert result["passed"] and [len(c["each"]) for c in result["checks"]] == [2, 2, 1, 1]
    assert result["checks"][1]["band"] == [None, 10.0]
    assert {p["x"] for p in result["chart"]["points"]} == {1.0, 4.0} and len(result["chart"]["points"]) == 3
    path = keep(result)
    assert latest("regression/test") == json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert "<svg" in path.with_suffix(".svg").read_text()
    ids = [run["run"] for run in result["runs"]["a"]]
    assert all((tmp_path / "runs" / id).exists() for id in ids) and result["runs"]["a"][1]["seeds"]["data"] == 1


def test_a_failed_check_fails_the_claim_and_each_means_every_seed(tiny, tmp_path):
    first = document(tiny)["checks"][0]
    claim = resolve(Claim, document(tiny, checks=[{**first, "band": [0.0, 0.1]}], chart=None))
    assert not check(claim, tmp_path, lambda text: None)["passed"]
    values = check(claim, tmp_path, lambda text: None)["checks"][0]["each"]
    middle = sum(values) / 2
    each = {**first, "band": [middle - 1e-9, middle + 1e-9]}
    assert not check(resolve(Claim, document(tiny, checks=[each], chart=None)), tmp_path, lambda t: None)["passed"]
    mean = {**each, "over": "mean"}
    assert check(resolve(Claim, document(tiny, checks=[mean], chart=None)), tmp_path, lambda t: None)["passed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checks": []}, "checks"),
        ({"tier": "weeks"}, "tier = weeks"),
        ({"checks": [{"what": "x", "band": [0, 1]}]}, "needs either a quantity, or a run"),
        ({"checks": [{"what": "x", "run": "c", "read": {}, "band": [0, 1]}]}, "reads run 'c'"),
        ({"titel": "x"}, "did you mean 'title'"),
        ({"id": "Regression Test"}, "id = Regression Test"),
    ],
)
def test_a_malformed_claim_is_refused(tiny, change, words):
    with pytest.raises(UserError, match=words):
        resolve(Claim, document(tiny, **change))


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"step": 21}, "0 numbers"), ({"set": "trian"}, "trian"), ({"at": {"position": 9}}, "0 numbers"),
     ({"measure": "distance"}, "0 numbers")],
)  # fmt: skip
def test_a_number_that_was_not_measured_is_never_replaced_by_a_near_one(tiny, tmp_path, asked, words):
    checks = [{"what": "x", "run": "b", "read": asked, "band": [0, 1]}]
    with pytest.raises(UserError, match=words):
        check(resolve(Claim, document(tiny, checks=checks, chart=None)), tmp_path, lambda text: None)


def test_an_unknown_quantity_names_the_known_ones(tiny, tmp_path):
    checks = [{"what": "x", "quantity": {"name": "ridge_flor"}, "band": [0, 1]}]
    with pytest.raises(UserError, match="did you mean 'ridge_floor"):
        check(resolve(Claim, document(tiny, runs=[], checks=checks, chart=None)), tmp_path, lambda text: None)


def test_the_claims_that_ship_are_sound():
    claims = all_claims()
    assert {"regression/floors", "regression/stages", "regression/task-diversity"} <= set(claims)
    for claim in claims.values():
        assert claim.id.startswith(f"{claim.study}/")
        for runs in claim.runs:
            compose(discovery.study(claim.study), runs.overrides)


def test_claims_of_the_seconds_tier_pass(tmp_path):
    for claim in all_claims().values():
        if claim.tier == "seconds":
            result = check(claim, tmp_path, lambda text: None)
            assert result["passed"], [c for c in result["checks"] if not c["passed"]]
