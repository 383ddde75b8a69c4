"""Writes happen or do not."""

from __future__ import annotations

import pytest

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import new_folder, read_json, remove_asides, sha256, write_bytes, write_json


def test_an_error_leaves_the_old_file_and_no_aside(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_error_inside_a_new_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "f") as aside:
        (aside / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "f") as aside:
        (aside / "x").write_text("1")
    assert (tmp_path / "f" / "x").read_text() == "1"


def test_left_asides_are_removed(tmp_path):
    (tmp_path / ".x.123.aside").mkdir()
    (tmp_path / ".y.123.aside").write_text("half")
    (tmp_path / "z").write_text("whole")
    remove_asides(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["z"]


def test_a_full_disk_is_one_sentence_with_the_path():
    with pytest.raises(EnvironmentFault, match=r"cannot write /sys/.*"):
        write_bytes(__import__("pathlib").Path("/sys/kernel/inlearn-test"), b"x")


def test_damaged_json_says_where(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(EnvironmentFault, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_known_text(tmp_path):
    write_bytes(tmp_path / "a", b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
