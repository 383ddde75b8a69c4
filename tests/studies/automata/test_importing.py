"""Published files become rows that say the same; anything else is refused with the place, and nothing in it is run."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from inlearn.cli.main import main
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import Seeds, compose, identity
from inlearn.studies.automata import importing, stored

EVAL = Address(Seeds().following(0), "eval")
STATES, ACTIONS = (0, 2, 4), (5, 6, 7)  # as one of the published generators names them


def entry(number: int) -> dict[str, Any]:
    """As published: a machine, a demonstration from each state, a query; plain integers."""
    machine = {s: {a: STATES[(i + j * (number + 1) + number // 5) % 3] for j, a in enumerate(ACTIONS)}
               for i, s in enumerate(STATES)}  # fmt: skip

    def walk(state: int, length: int) -> dict[str, list[int]]:
        states, actions = [state], []
        for step in range(length):
            actions.append(ACTIONS[(step * step + number) % 3])
            states.append(machine[states[-1]][actions[-1]])
        return {"states": states, "actions": actions}

    return {"fsm": machine, "demos": [walk(s, 2 + (number + s) % 3) for s in STATES], "query": walk(2, 3 + number % 2)}


def published(path: Path, rows: int = 20, content: Any = None) -> Path:
    torch.save([entry(number) for number in range(rows)] if content is None else content, path)
    return path


def convert(source: Path, out: Path) -> list[str]:
    said: list[str] = []
    importing.convert(source, out, said.append)
    return said


def asked(path: Path, *more: str) -> list[str]:
    return ["task.states=3", "task.actions=3", "task.demo_length=4", "task.query_length=4", "data=file",
            f"data.path={path}", *more]  # fmt: skip


def built(path: Path, *more: str):
    return compose(discovery.study("automata"), asked(path, *more)).study.build(Seeds().following(1), 4)


def test_rows_say_what_the_file_says(tmp_path: Path):
    out = tmp_path / "rows"
    said = convert(published(tmp_path / "set.pt"), out)
    assert said[0] == (
        f"{out}: 12 + 4 + 4 rows for training, validation and test; 3 states, 3 actions (states [0, 2, 4], actions "
        "[5, 6, 7] in the file)"
    )
    study = built(out, "task.demos=3")
    first = 0
    for name, count in (("train", 12), ("validation", 4), ("test", 4)):
        batch = study.tasks[name].sample(EVAL, count)
        batch.check(study.interface)
        for row in range(count):
            source, inputs = entry(first + row), batch.inputs[row].tolist()
            shown = []
            while inputs[1 + sum(map(len, shown))] != 19:
                begin = 1 + sum(map(len, shown))
                shown.append(inputs[begin : inputs.index(18, begin) + 1])
            walks = [written(walk) for walk in source["demos"]]
            assert sorted(shown) == sorted(walks)
            begin = 2 + sum(map(len, shown))
            assert inputs[begin:][: len(written(source["query"])) - 1] == written(source["query"])[:-1]
        first += count
    assert study.evaluation_rows("validation") == study.evaluation_rows("test") == 4


def written(walk: dict[str, list[int]]) -> list[int]:
    """A walk in our symbols, with its EOS."""
    symbols = [STATES.index(walk["states"][0])]
    for action, state in zip(walk["actions"], walk["states"][1:], strict=True):
        symbols += [8 + ACTIONS.index(action), STATES.index(state)]
    return [*symbols, 18]


def test_machines_that_training_and_test_share_are_counted(tmp_path: Path):
    content = [entry(0) for _ in range(10)]
    said = convert(published(tmp_path / "set.pt", content=content), tmp_path / "rows")
    assert said[1] == "2 of its 2 test rows have a machine that training rows have too"


def test_a_run_is_the_files_content_and_not_its_path(tmp_path: Path):
    study = discovery.study("automata")
    for source, out in (("a", "x"), ("a", "y")):
        convert(published(tmp_path / source), tmp_path / out)
    convert(published(tmp_path / "b", 21), tmp_path / "z")
    contents = [identity(compose(study, asked(tmp_path / name)), study, None) for name in "xyz"]
    assert contents[0] == contents[1] != contents[2]
    assert contents[0]["data"]["rows"] != contents[2]["data"]["rows"] and "path" not in contents[0]["study"]["data"]
    assert compose(study, [*asked(tmp_path / "x"), "training.batch=4", "training.epochs=2"]).training.steps == 6


def changed(path: str, value: Any) -> list[Any]:
    """Twenty entries of which the fourth has `value` at a path."""
    content: Any = [entry(number) for number in range(20)]
    node, keys = content[3], [int(k) if k.lstrip("-").isdigit() else k for k in path.split(".")]
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"a": 1}, "expected a list of 1 to .* dictionaries, found a dictionary of a"),
        ([], "found list of 0"),
        ([7], "entry 0: expected a dictionary of fsm, demos and query, found int 7"),
        (changed("more", 1), "entry 3: expected a dictionary of fsm, demos and query"),
        (changed("fsm", [1]), "entry 3: fsm should say .* found list of 1"),
        (changed("fsm.0.5", 9), "entry 3: fsm leads to 9, which is none of its states"),
        (changed("fsm.0.5", 2.0), "entry 3: fsm has float; expected integers from 0 to 1023"),
        (changed("fsm.0.5", True), "entry 3: fsm has bool"),
        (changed("fsm.0.5", 1 << 70), "entry 3: fsm has int; expected integers"),
        (changed("fsm.0.5", torch.tensor(0)), "entry 3: fsm has Tensor"),
        (changed("fsm.9", {5: 0}), r"entry 3: states \[0, 2, 4, 9\]; expected \[0, 2, 4\]"),
        (changed("demos", []), "entry 3: demos should be a list of 3 walks, as in entry 0, found list of 0"),
        (changed("demos.1.states", "0"), "entry 3, demo 1: states should be a list of integers, found str"),
        (changed("query.actions", []), "entry 3, query: 5 states and 0 actions; expected one state more"),
        (changed("query.actions.1", 99), "entry 3, query, step 1: action 99 leads from"),
        (changed("query.states.2", 3), "entry 3, query, step 1: .* which its fsm does not say"),
        ([entry(number) for number in range(4)], "has 4 rows; expected at least 5"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_not_as_published_is_refused_with_its_place(tmp_path: Path, content: Any, reason: str):
    source = published(tmp_path / "set.pt", content=content)
    with pytest.raises(UserError, match=reason):
        convert(source, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('ran', 'w')",))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_foreign_pickle_is_refused_and_not_run(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save([Evil()], tmp_path / "set.pt")
    with pytest.raises(UserError, match="is no list of dictionaries that torch"):
        convert(tmp_path / "set.pt", tmp_path / "rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.pt"]


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04", b"hello", bytes(range(256)), b"\x80\x02]q\x00(" * 2000]
)
def test_what_is_no_pickle_at_all_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "set.pt").write_bytes(content)
    with pytest.raises(UserError, match="is no list of dictionaries"):
        convert(tmp_path / "set.pt", tmp_path / "rows")


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path):
    whole = published(tmp_path / "set.pt", 6).read_bytes()
    for keep in range(1, len(whole) - 1, 97):
        (tmp_path / "part").write_bytes(whole[:keep])
        with pytest.raises(UserError):
            convert(tmp_path / "part", tmp_path / "rows")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importing, "LARGEST", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("bomb/data.pkl", bytes(1 << 21))
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 13
    with pytest.raises(UserError, match="2,097,152 bytes unpacked; expected at most 1,048,576"):
        convert(tmp_path / "bomb.pt", tmp_path / "rows")


def test_an_archive_with_a_damaged_list_of_parts_is_refused(tmp_path: Path):
    whole = bytearray(published(tmp_path / "set.pt", 6).read_bytes())
    listed = whole.find(b"PK\x01\x02")
    whole[listed : listed + 4] = b"XXXX"
    (tmp_path / "set.pt").write_bytes(whole)
    with pytest.raises(UserError, match=r"is no list of dictionaries that torch\.save wrote"):
        convert(tmp_path / "set.pt", tmp_path / "rows")


def test_a_small_file_that_names_the_same_walks_again_and_again_is_refused(tmp_path: Path, monkeypatch):
    """In a pickle naming a thing twice costs a few bytes, as rows it costs its size."""
    monkeypatch.setattr(importing, "LARGEST", 1 << 20)
    source = published(tmp_path / "set.pt", content=[entry(1)] * (1 << 16))
    assert source.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"its walks have .* numbers as tensors; expected at most 1,048,576"):
        convert(source, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize(
    "more, reason",
    [
        (["task.states=4"], r"task\.states = 4, but machines of .* have 3"),
        (["task.actions=4"], r"task\.actions = 4, but machines of .* have 3"),
        (["task.demo_length=3"], r"walks of 4 actions, but task\.demo_length = 3 with task\.jitter = 0\.2 allows 3"),
        (["task.query_length=2"], r"expected task\.query_length=4"),
        (["task.relabel=true"], r"task\.relabel = True with data = file"),
        (["task.absorbing=one"], r"task\.absorbing = one is not true of all machines"),
        (["evaluation.query_lengths=[9]"], "evaluation.query_lengths = .9. with data = file"),
        (["data.path=missing"], r"data\.path = missing: no such file"),
        (["data.path=."], r"is a folder; expected a file"),
    ],
)
def test_a_task_that_is_not_the_files_is_refused(tmp_path: Path, more: list[str], reason: str):
    convert(published(tmp_path / "set.pt"), tmp_path / "rows")
    given = {text.partition("=")[0] for text in more}
    kept = [text for text in asked(tmp_path / "rows") if text.partition("=")[0] not in given]
    with pytest.raises(UserError, match=reason):
        compose(discovery.study("automata"), [*kept, *more]).study.build(Seeds().following(1), 4)


def test_more_demonstrations_than_the_file_has_are_refused(tmp_path: Path):
    content = [{**entry(number), "demos": entry(number)["demos"][:2]} for number in range(20)]
    convert(published(tmp_path / "set.pt", content=content), tmp_path / "rows")
    with pytest.raises(UserError, match=r"task\.demos = 3, but rows of .* have 2 demonstrations"):
        built(tmp_path / "rows")
    assert built(tmp_path / "rows", "task.demos=2").tasks["train"].sample(EVAL, 3).rows == 3


def test_a_partial_machine_keeps_what_it_lacks(tmp_path: Path):
    content = [entry(number) for number in range(20)]
    taken = {(s, a) for walk in (*content[3]["demos"], content[3]["query"])
             for s, a in zip(walk["states"], walk["actions"], strict=False)}  # fmt: skip
    lacks = next((s, a) for s in STATES for a in ACTIONS if (s, a) not in taken)
    del content[3]["fsm"][lacks[0]][lacks[1]]
    convert(published(tmp_path / "set.pt", content=content), tmp_path / "rows")
    table = stored.read(tmp_path / "rows")[0].table
    assert (table < 0).nonzero().tolist() == [[3, STATES.index(lacks[0]), ACTIONS.index(lacks[1])]]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "set.pt")

    def run(study: str) -> int:
        monkeypatch.setattr(sys, "argv", ["inlearn", "import", study, "set.pt", "--out", "rows"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    assert run("automata") == 0
    said = capsys.readouterr()
    assert said.out == "rows\n" and "12 + 4 + 4 rows" in said.err
    assert run("automata") == 2 and "--out rows exists already" in capsys.readouterr().err
    assert run("recall") == 2 and "study recall knows no files of other systems" in capsys.readouterr().err
