from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.folder import RunFolder, Status, list_runs, names
from inlearn.runs.lease import Lease

FIRST, SECOND = "0123456789ab", "0123ffffffff"


def asked(id: str, **config: Any) -> dict[str, Any]:
    content = {"seed": 1, "model": {"kind": "transformer", "width": 64}} | config
    return {"id": id, "config": content, "unhashed": {"name": None}, "numerics": 1}


def make(root: Path, id: str = FIRST, name: str | None = None, **config: Any) -> RunFolder:
    return RunFolder.create(root, id, asked(id, **config), {"kind": "regression"}, name)


def test_a_new_folder_holds_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "status.json", "study.json"]
    assert (run.id, run.config, run.study) == (FIRST, asked(FIRST), {"kind": "regression"})
    assert run.status == Status("new", 0, "")
    assert run.name is None and run.segments == []


def test_the_same_request_opens_the_same_folder_and_keeps_the_stored_file(tmp_path: Path) -> None:
    run = make(tmp_path, betas=(0.9, 0.99))
    run.set_status("finished", 10)
    before = (run.path / "config.json").read_bytes()
    again = RunFolder.create(
        tmp_path, FIRST, asked(FIRST, betas=(0.9, 0.99)) | {"unhashed": {"tags": ["x"]}}, {"kind": "regression"}
    )
    assert again.path == run.path and again.status == Status("finished", 10)
    assert (run.path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 2}, "seed is 1 there, 2 was asked for"),
        ({"seed": 1.0}, "seed is 1 there, 1.0 was asked for"),
        ({"model": {"kind": "transformer", "width": 32}}, "model.width is 64 there, 32 was asked for"),
        ({"model": {"kind": "transformer"}}, "model.width is 64 there, absent was asked for"),
        ({"data": None}, "data is absent there, null was asked for"),
    ],
)
def test_another_configuration_in_the_folder_is_refused_by_its_first_key(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        make(tmp_path, **changed)


def test_another_study_and_a_foreign_folder_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match="belongs to study regression, not automata"):
        RunFolder.create(tmp_path, FIRST, asked(FIRST), {"kind": "automata"})
    (tmp_path / SECOND).mkdir()
    with pytest.raises(UserError, match=r"is not a run folder: it holds no config.json"):
        make(tmp_path, SECOND)


def test_a_request_that_cannot_be_stored_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        make(tmp_path, rate=float("nan"))
    assert [path.name for path in tmp_path.iterdir()] == [".names"]
    left = tmp_path / f".{FIRST}.12345678.aside"  # what a kill during creation leaves
    left.mkdir()
    make(tmp_path)
    assert not left.exists()


def test_runs_are_found_by_id_beginning_name_and_path(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = make(root, FIRST, "lr_seed1"), make(root, SECOND)
    second.claim_name("other")
    for reference, run in (
        (FIRST, first),
        ("01234", first),
        ("lr_seed1", first),
        ("0123f", second),
        ("other", second),
        (str(second.path), second),
    ):
        assert RunFolder.open(root, reference).id == run.id
    copied = first.path.rename(tmp_path / "copied")
    assert RunFolder.open(root, str(copied)).id == FIRST


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("0123", "ambiguous: 0123456789ab, 0123ffffffff"),
        ("012", "nearest|known"),
        ("lr_sed1", "nearest: lr_seed1"),
        ("000000000000", "no run '000000000000'"),
    ],
)
def test_an_unknown_run_is_refused_with_the_nearest(tmp_path: Path, reference: str, message: str) -> None:
    make(tmp_path, FIRST, "lr_seed1")
    make(tmp_path, SECOND)
    with pytest.raises(UserError, match=message):
        RunFolder.open(tmp_path, reference)


def test_an_empty_or_missing_root_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == [] and names(tmp_path / "none") == {}
    with pytest.raises(UserError, match="there are no runs"):
        RunFolder.open(tmp_path / "none", "x")
    assert not (tmp_path / "none").exists()


def test_listing_is_by_id_and_sees_only_runs(tmp_path: Path) -> None:
    make(tmp_path, SECOND)
    make(tmp_path, FIRST)
    (tmp_path / "notes").mkdir()
    (tmp_path / f".{FIRST}.00000000.aside").mkdir()
    assert [run.id for run in list_runs(tmp_path)] == [FIRST, SECOND]


def test_a_name_belongs_to_one_run_until_that_run_is_deleted(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, "mine")
    first.claim_name("mine")  # again is no harm
    with pytest.raises(UserError, match=f"already the name of run {FIRST}"):
        make(tmp_path, SECOND, "mine")
    assert not (tmp_path / SECOND).exists(), "a refused name must not leave a run behind"
    assert names(tmp_path) == {"mine": FIRST}
    for path in first.path.iterdir():
        path.unlink()
    first.path.rmdir()
    make(tmp_path, SECOND, "mine")
    assert RunFolder.open(tmp_path, "mine").id == SECOND


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "é", "0123456789ab", "a\n"])
def test_malformed_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="name = "):
        make(tmp_path, FIRST, name)
    assert list_runs(tmp_path) == []


def test_the_configured_name_is_shown_before_others(tmp_path: Path) -> None:
    config = asked(FIRST) | {"unhashed": {"name": "second"}}
    run = RunFolder.create(tmp_path, FIRST, config, {"kind": "regression"}, "second")
    run.claim_name("first")
    assert run.name == "second"
    (tmp_path / ".names" / "second").unlink()
    assert run.name == "first"


def test_a_run_that_says_it_runs_without_a_lease_was_interrupted(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.set_status("running", 7)
    assert run.status.state == "interrupted" and run.status.step == 7 and "killed" in run.status.reason
    with Lease(run.path):
        assert run.status == Status("running", 7)
    run.set_status("failed", 8, "the loss is NaN")
    assert run.status == Status("failed", 8, "the loss is NaN")


def test_segments_are_kept_in_order_and_damage_is_named(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.add_segment({"device": "cpu"})
    run.add_segment({"device": "cuda"})
    assert run.segments == [{"device": "cpu"}, {"device": "cuda"}]
    assert json.loads((run.path / "environment.json").read_text()) == run.segments
    (run.path / "status.json").write_text("{")
    with pytest.raises(EnvironmentFault, match=r"status.json is damaged"):
        run.status  # noqa: B018
