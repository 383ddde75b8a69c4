"""Axes and plans: what a few lines mean, the published grids among them."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.lab.config import AXIS, reads_as_axis
from inlearn.sweeps.axes import FUNCTIONS, text, values
from inlearn.sweeps.plan import Plan, points, read_plan, with_overrides
from inlearn.sweeps.planned import planned


def plan(document: str) -> Plan:
    return resolve(Plan, yaml.safe_load(document))


def expanded(document: str) -> list[dict[str, str]]:
    found, remarks = points(plan(document))
    assert not remarks
    return found


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("1,16,inf", ["1", "16", "inf"]),
        ("range(3)", ["0", "1", "2"]),
        ("7,range(2, 6, 3)", ["7", "2", "5"]),
        ("powers(2, 0, 4)", ["1", "2", "4", "8", "16"]),
        ("linspace(0, 0.3, 4)", ["0.0", "0.1", "0.2", "0.3"]),
        ("logspace(1e-4, 1e-2, 3)", ["0.0001", "0.001", "0.01"]),
        ("subsets(a, b)", ['["a"]', '["b"]', '["a", "b"]']),
        ("subsets(1, 2)", ["[1]", "[2]", "[1, 2]"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ('{"kind":"every","steps":20},{"kind":"never"}', ['{"kind":"every","steps":20}', '{"kind":"never"}']),
        ([1, None, True, 0.5, "a,b", [1, "x"]], ["1", "none", "true", "0.5", "a,b", '[1, "x"]']),
        (5, ["5"]),
    ],
)
def test_values_of_an_axis(asked, meant):
    assert values("key", asked) == meant


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("1,,2", "empty value"),
        ("range(a)", "range(stop)"),
        ("range(1,2,3,4)", "range(stop)"),
        ("rang(5)", "did you mean 'key = range'"),
        ("logspace(0, 1, 5)", "both positive"),
        ("linspace(0, 1, 1)", "linspace(low, high, count)"),
        ("powers(2, -1, 3)", "whole powers"),
        ("subsets()", "subsets(a, b"),
        ("range(0)", "no values"),
        ("1,2,1", "1 twice"),
        ("[1,2", "do not close"),
        ([], "no values"),
    ],
)
def test_what_is_no_axis_is_told(asked, said):
    with pytest.raises(UserError) as error:
        values("key", asked)
    assert said in str(error.value)


def test_what_reads_as_several_values():
    assert all(map(reads_as_axis, ["1,2", "range(5)", "powers(2,0,3)", "subsets(a,b)", "a,[1,2]"]))
    assert not any(map(reads_as_axis, ["1", "[1,2]", '{"a":1,"b":2}', "name(1)", "inf"]))


@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_a_grid_is_the_product_with_the_last_axis_fastest(axes):
    document = {"study": "s", "grid": {f"a{i}": list(axis) for i, axis in enumerate(axes)}}
    found, _ = points(resolve(Plan, document))
    assert [tuple(p.values()) for p in found] == [tuple(map(str, p)) for p in itertools.product(*axes)]


def test_zip_goes_side_by_side_and_multiplies_the_rest():
    found = expanded("{study: s, grid: {c: [0, 1]}, zip: {a: [1, 2], b: [x, y]}}")
    assert [tuple(p.values()) for p in found] == [
        ("0", "1", "x"),
        ("0", "2", "y"),
        ("1", "1", "x"),
        ("1", "2", "y"),
    ]
    with pytest.raises(UserError, match="a has 2, b has 3"):
        expanded("{study: s, zip: {a: [1, 2], b: [x, y, z]}}")


def test_list_include_exclude():
    found = expanded(
        """
        study: s
        set: {z: 0}
        grid: {a: [1, 2]}
        list: [{b: 1}, {b: 2, c: 3}]
        exclude: [{a: 1.0, b: 2}]
        include: [{a: 9}]
        """
    )
    assert found == [
        {"z": "0", "a": "1", "b": "1"},
        {"z": "0", "a": "2", "b": "1"},
        {"z": "0", "a": "2", "b": "2", "c": "3"},
        {"z": "0", "a": "9"},
    ]


def test_conditional_axes():
    found = expanded(
        """
        study: s
        grid: {model: [transformer, lstm], seed: range(2)}
        when:
          - {if: {model: lstm}, grid: {model.layers: [1, 2]}, set: {training.clip: 1}}
          - {if: {model: [transformer], seed: 0}, set: {model.heads: 2}}
        """
    )
    assert Counter(p["model"] for p in found) == {"transformer": 2, "lstm": 4}
    assert all(("model.layers" in p) == ("training.clip" in p) == (p["model"] == "lstm") for p in found)
    assert [p.get("model.heads") for p in found if p["model"] == "transformer"] == ["2", None]


def test_references_between_axes():
    found = expanded(
        """
        study: s
        set: {name: "m{task.count}_s{seed}_{$size}", record.training: "{$every}"}
        grid: {task.count: [1, 16], seed: [3]}
        zip: {$size: [small, large], model.width: [16, 64], $every: [10, 20]}
        """
    )
    assert [(p["name"], p["record.training"]) for p in found] == [
        ("m1_s3_small", "10"),
        ("m1_s3_large", "20"),
        ("m16_s3_small", "10"),
        ("m16_s3_large", "20"),
    ]
    assert not any(key.startswith("$") for p in found for key in p)
    with pytest.raises(UserError, match="refer to each other in a circle"):
        expanded('{study: s, set: {a: "{b}", b: "{a}"}}')
    with pytest.raises(UserError, match="the plan does not set sed at"):
        expanded('{study: s, set: {a: "{sed}", seed: 1}}')


def test_parts_that_match_nothing_are_told():
    found, remarks = points(plan("{study: s, grid: {a: [1]}, exclude: [{a: 2}], when: [{if: {a: 3}, set: {b: 1}}]}"))
    assert found == [{"a": "1"}]
    assert remarks == [
        "when.0.if: no run has a = 3",
        "when.0 holds for no run",
        "exclude.0: no run has a = 2",
        "exclude.0 matches no run",
    ]
    for document in (
        "{study: s, grid: {a: [1]}, exclude: [{aa: 2}]}",
        "{study: s, grid: {a: [1]}, when: [{if: {aa: 3}}]}",
    ):
        with pytest.raises(UserError, match="unknown key"):
            points(plan(document))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{study: s, grid: {a: [1]}, set: {a: 2}}", "both a shared value"),
        ("{study: s, grid: {a: [1]}, list: [{a: 2}]}", "an axis twice"),
        ("{study: s, grid: {a: [1]}, exclude: [{a: 1}]}", "no run: everything is excluded"),
        ("{study: s, gird: {a: [1]}}", "did you mean 'grid'"),
        ("{grid: {a: [1]}}", "study is missing"),
    ],
)
def test_plans_that_are_none(document, said):
    with pytest.raises(UserError) as error:
        points(plan(document))
    assert said in str(error.value)


# ---------------------------------------------------------------- the published grids


def test_published_task_diversities():
    """Regression: 21 task diversities, and infinitely many tasks, times seeds."""
    asked = Plan(study="regression", set={"preset": "main-lr"})
    found, remarks = planned(with_overrides(asked, ["task.count=powers(2, 0, 20)", "seed=range(5)"]), Path("nowhere"))
    assert len(found) == 21 * 5 and len({run.id for run in found}) == 105 and not remarks
    assert [run.axes for run in found[::5]] == [{"task.count": 1 << i, "seed": 0} for i in range(21)]


def test_published_calibration():
    """Localisation, inverse temperature and step size of the sampler: 6 × 6 × 6."""
    found = expanded(
        """
        study: regression
        grid:
          localisation: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
          temperature: powers(10, 0, 2), 0.1, 0.01, 0.001
          step_size: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
        """
    )
    assert len({tuple(p.items()) for p in found}) == 216


def test_published_facts_grid():
    """26 sizes × 15 databases × 2 modes × 10 seeds; the context and the batch follow from others."""
    found = expanded(
        """
        study: facts
        set: {model.layers: 2, name: "{mode}_n{people}_d{model.width}_s{seed}"}
        grid:
          model.width: range(4, 56, 2)
          people: powers(2, 1, 15)
          mode: [qa, qatool]
          seed: range(10)
        """
    )
    assert len(found) == len({p["name"] for p in found}) == 7800


def test_published_subsets_of_categories():
    found = expanded(
        """
        study: mixtures
        grid: {components: "subsets(cs.DS, math.ST, math.GR, cs.IT, cs.PL)", seed: range(4)}
        """
    )
    assert len(found) == 31 * 4
    assert Counter(len(json.loads(p["components"])) for p in found[::4]) == {1: 5, 2: 10, 3: 10, 4: 5, 5: 1}


# ---------------------------------------------------------------- files and the command line


def test_a_file_and_the_command_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("study: regression\nset: {training.steps: 10}\ngrid: {seed: range(3), task.count: [1, 2]}\n")
    asked = with_overrides(read_plan(path), ["training.steps=20", "seed=5", "model.width=16,32"])
    assert asked.name == "mine" and asked.set == {"training.steps": "20", "seed": "5"}
    assert list(asked.grid) == ["task.count", "model.width"]
    for place in ("zip: {a: [1], b: [2]}", "include: [{a: 2}]", "when: [{if: {b: 1}, set: {a: 2}}]"):
        path.write_text(f"study: s\n{place}\n")
        with pytest.raises(UserError, match="for some runs only; change it there"):
            with_overrides(read_plan(path), ["a=3"])
    for content in ("- a\n", "a: [", "\x00"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"mine\.yaml"):
            read_plan(path)


def test_spellings_of_one_key_are_one_axis():
    found, remarks = planned(
        Plan(
            study="regression",
            grid={"study.task.count": [1, 2], "seed": [0, 1]},
            exclude=({"task.count": 2, "seed": 1},),
        ),
        Path("nowhere"),
    )
    assert [run.axes for run in found] == [
        {"task.count": 1, "seed": 0},
        {"task.count": 1, "seed": 1},
        {"task.count": 2, "seed": 0},
    ]
    assert not remarks


def test_points_that_are_the_same_run_are_one():
    found, remarks = planned(Plan(study="regression", grid={"task.noise_variance": ["1", "1.0"]}), Path("nowhere"))
    assert len(found) == 1 and remarks == ["2 points are 1 run"]


@pytest.mark.parametrize("grid", [{"training.until": [20, 40]}, {"device": ["cpu", "auto"]}, {"name": ["a", "b"]}])
def test_what_a_run_is_not_made_of_is_no_axis(grid):
    with pytest.raises(UserError, match="is not part of what a run is, so it cannot be an axis"):
        planned(Plan(study="regression", grid=grid), Path("nowhere"))


def test_two_spellings_of_one_key_are_refused():
    same = {"study.a": "a"}.get
    plain = Plan(study="s", set={"study.a": 1, "a": 2})
    with pytest.raises(UserError, match="twice, in two spellings"):
        with_overrides(plain, [], lambda key: same(key, key))
    with pytest.raises(UserError, match="a is given twice: 3 and 4"):
        with_overrides(Plan(study="s"), ["a=3", "study.a=4"], lambda key: same(key, key))


def test_every_function_of_an_axis_is_recognised():
    assert all(AXIS.fullmatch(f"{name}(1)") for name in FUNCTIONS) and not AXIS.fullmatch("other(1)")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("task.cout", [1, 2], "did you mean 'study.task.count'"),
        ("modle", ["a", "b"], "did you mean 'model'"),
        ("task.count", [1, 0], "(at task.count=0)"),
        ("name", "same", "would name several runs"),
    ],
)
def test_axes_that_no_run_can_have(key, value, said):
    grid = {"seed": [0, 1]} if key == "name" else {}
    block = {"set": {key: value}} if key == "name" else {}
    with pytest.raises(UserError) as error:
        planned(Plan(study="regression", grid=grid | ({} if block else {key: value}), **block), Path("nowhere"))
    assert said in str(error.value)


@given(st.one_of(st.integers(), st.booleans(), st.none(), st.text("abc_.", min_size=1), st.lists(st.integers())))
def test_texts_of_values_are_what_the_grammar_reads(value):
    written = text(value)
    if value is None or isinstance(value, bool):
        assert written == {None: "none", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        assert written == value
    else:
        assert json.loads(written) == value


def test_the_guides_plan_is_one(tmp_path):
    guide = Path(__file__).parents[2] / "docs" / "guides" / "sweeps.md"
    (document,) = re.findall(r"^```yaml\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "plan.yaml").write_text(document)
    found, remarks = planned(read_plan(tmp_path / "plan.yaml"), tmp_path)
    assert len(found) == (21 * 5 - 1) * 2 * 2 + 1 and not remarks
