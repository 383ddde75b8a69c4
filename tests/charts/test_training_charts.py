from __future__ import annotations

import json

import pandas as pd
import pytest
import vl_convert

from inlearn.charts import positions, theme, training


def drawn(chart) -> tuple[dict, list[dict], str]:
    """(specification, its rows of data, the texts of its SVG). The conversion compiles what a browser would."""
    spec = chart.to_dict()
    rows = [row for rows in spec["datasets"].values() for row in rows]
    texts = vl_convert.vegalite_to_svg({**spec, "width": 600}, show_warnings=False)
    return spec, rows, texts


def marks(spec: dict, kind: str) -> list[dict]:
    return [layer for layer in spec["layer"] if layer["mark"]["type"] == kind]


def test_distances_show_every_checkpoint_and_learner(table):
    spec, rows, svg = drawn(training.distances_over_training(table, "train"))
    found = {(row["series"], row["step"]): row["mean"] for row in rows if "interval" in row}
    assert found[("ridge", 0)] == 2.5 and found[("zero", 1000)] == 2.01
    assert len(found) == 2 * 5
    line = marks(spec, "line")[0]["encoding"]
    assert line["x"]["scale"]["type"] == "symlog" and line["y"]["scale"]["type"] == "log"
    assert line["stroke"]["scale"]["domain"] == line["strokeDash"]["scale"]["domain"] == ["ridge", "zero"]
    assert "distance of model to learner (squared error), log scale" in svg
    assert "training step (log scale, with step 0)" in svg


def test_bands_are_the_intervals_within_the_plot(table):
    spec, rows, _ = drawn(training.distances_over_training(table, "train"))
    low = marks(spec, "line")[0]["encoding"]["y"]["scale"]["domain"][0]
    bands = {(row["series"], row["step"]): row for row in rows if "low" in row}
    assert bands[("ridge", 0)]["high"] == pytest.approx(2.5 * (1 + 0.1959964), rel=1e-5)
    assert bands[("zero", 0)]["low"] >= low


def test_loss_has_named_floors(table):
    training_rows = pd.DataFrame({"step": [1, 10, 100], "loss": [4.2, 3.1, 2.6]})
    _, rows, svg = drawn(training.loss_over_training(table, training_rows, "train"))
    assert {row["text"] for row in rows if "text" in row} == {"ridge 1.5", "zero 4"}
    for words in ("ridge 1.5", "zero 4", "training batches", "loss (squared error)"):
        assert f">{words}<" in svg
    _, rows, _ = drawn(training.loss_over_training(table, None, "train"))
    assert {row["series"] for row in rows if "interval" in row} == {"model"}


def test_a_floor_is_named_where_the_curves_are_not(table):
    spec, _, _ = drawn(training.loss_over_training(table, None, "train"))
    sides = {}
    for layer in marks(spec, "text"):
        for row in spec["datasets"][layer["data"]["name"]]:
            sides[row["series"]] = layer["mark"]["align"]
    assert sides == {"ridge": "left", "zero": "right"}


def test_levels_are_labelled_and_chosen(table):
    labels = {(0,): "gain 3", (1,): "gain 10"}
    chart = training.measure_over_training(table, "loss", "input_gains", ("gain",), labels, ("ridge",))
    _, rows, svg = drawn(chart)
    assert {row["text"] for row in rows if "text" in row} == {"ridge 13.5", "ridge 150"}
    assert ">gain 10<" in svg
    _, rows, svg = drawn(training.measure_over_training(table, "loss", "input_gains", ("gain",), {(1,): "only"}))
    assert {row["series"] for row in rows} == {"only"}
    _, _, svg = drawn(training.measure_over_training(table, "loss", "input_gains", ("gain",)))
    assert ">gain 0<" in svg


def test_one_measure_against_learners(table):
    _, rows, _ = drawn(training.measure_over_training(table, "icl_1_4", "train", references=("zero",)))
    assert {row["text"] for row in rows if "text" in row} == {"zero −0.75"}
    assert {row["interval"] for row in rows if "interval" in row} == {"unknown"}


def test_measures_of_one_unit_together(table):
    names = {"icl_1_2": "1 to 2", "icl_1_4": "1 to 4"}
    spec, rows, svg = drawn(training.measures_over_training(table, names, "train", "difference", "ridge"))
    assert len([row for row in rows if "interval" in row]) == 10
    assert "difference (squared error)" in svg
    assert marks(spec, "rule")[0]["mark"]["strokeDash"] == [2, 2]


def test_runs_side_by_side(table):
    both = pd.concat([table, table.assign(run="b", mean=table["mean"] * 2)], ignore_index=True)
    _, rows, svg = drawn(training.runs_over_training(both, "loss", "train", {"b": "twice", "a": "once"}))
    found = {(row["series"], row["step"]): row["mean"] for row in rows if "interval" in row}
    assert found[("once", 0)] == 4.0 and found[("twice", 0)] == 8.0
    assert ">once<" in svg and ">twice<" in svg


def test_runs_share_only_the_floors_that_are_the_same(table):
    other = table["mean"].where((table["learner"] != "ridge"), 9.0)
    both = pd.concat([table, table.assign(run="b", mean=other), table.assign(run="c", mean=0.0)], ignore_index=True)
    _, rows, _ = drawn(training.runs_over_training(both, "loss", "train", {"a": "once", "b": "twice"}))
    assert {row["text"] for row in rows if "text" in row} == {"zero 4"}


def test_several_seeds_are_one_curve_with_a_band_between_runs(table):
    both = pd.concat([table, table.assign(run="b", mean=table["mean"] + 0.2)], ignore_index=True)
    _, rows, _ = drawn(training.distances_over_training(both, "train"))
    points = [row for row in rows if row["series"] == "ridge" and "interval" in row]
    assert [row["mean"] for row in points] == [2.6, 2.1, 1.6, 1.1, 0.6]


def test_positions_at_chosen_steps_against_floors(table):
    spec, rows, svg = drawn(positions.loss_per_position(table, "train", steps=[0, 1000], references=("ridge",)))
    assert {row["series"] for row in rows} == {"step 0", "step 1,000", "ridge"}
    found = {(row["series"], row["position"]): row["mean"] for row in rows}
    assert found[("step 1,000", 3)] == 1.25 and found[("ridge", 3)] == 0.75
    assert "examples seen before the question" in svg
    assert len(spec["layer"]) == 2


def test_by_default_five_steps_and_every_learner(table):
    _, rows, _ = drawn(positions.loss_per_position(table, "train"))
    assert len({row["series"] for row in rows}) == 5 + 2


def test_nothing_to_draw_is_an_error(table):
    nothing = table[table["set"] == "nowhere"]
    with pytest.raises(ValueError, match="no rows"):
        training.distances_over_training(nothing, "train")
    with pytest.raises(ValueError, match=r"no loss by depth on evaluation set 'train'"):
        positions.loss_per_position(table, "train", mark="depth")
    with pytest.raises(ValueError, match="nothing to draw"):
        training.measure_over_training(table, "loss", "input_gains", ("gain",), {(7,): "no such gain"})


def test_the_input_is_left_alone(table):
    before = table.copy(deep=True)
    training.distances_over_training(table, "train")
    positions.loss_per_position(table, "train")
    pd.testing.assert_frame_equal(table, before)


def test_bounds_are_drawn_where_they_fall_inside_and_never_stretch_the_scale():
    points = pd.DataFrame(
        {"step": [0, 10], "series": "model", "mean": [4.0, 2.0], "low": [3.9, 1.9], "high": [4.1, 2.1]}
    )
    styles = {"model": theme.LEARNERS["model"]}
    plain = training.lines_over_training(points, styles, "loss").to_dict()
    bounded = training.lines_over_training(points, styles, "loss", bounds={"noise": 0.1, "far": 900.0}).to_dict()
    text = json.dumps(bounded)
    assert '"noise 0.1"' in text and "far" not in text

    def domain(spec):
        return [layer["encoding"]["y"]["scale"]["domain"] for layer in spec["layer"] if layer["mark"]["type"] == "line"]

    assert domain(plain) == domain(bounded)
