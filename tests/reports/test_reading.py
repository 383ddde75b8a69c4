from __future__ import annotations

import pandas as pd

from inlearn.reports.reading import reading


def story(distances: dict[int, dict[str, float]], se: float = 0.01) -> pd.DataFrame:
    """A table of one run with these distances, whose loss falls by one a checkpoint from ten."""
    head = {"run": "a", "set": "train", "unit": "nats", "by": "", "level": (), "se": se, "n": 9}
    rows = [{**head, "step": None, "learner": "look_up", "measure": "loss", "reference": None, "mean": 0.5}]
    for place, (step, each) in enumerate(distances.items()):
        model = {**head, "step": step, "learner": "model"}
        rows.append({**model, "measure": "loss", "reference": None, "mean": 10.0 - place})
        rows += [{**model, "measure": "distance", "reference": name, "mean": d} for name, d in each.items()]
    table = pd.DataFrame(rows)
    return table.assign(step=table["step"].astype("Int64"))


def test_a_run_that_changes_sides():
    text = reading(
        story(
            {0: {"zero": 0.1, "look_up": 3.0}, 50: {"zero": 2.0, "look_up": 1.0}, 1000: {"zero": 4.0, "look_up": 0.2}}
        ),
        "train",
    )
    assert text == (
        "At step 0 the model is nearest to zero (distance 0.1; next: look up 3). "
        "At step 50 it is nearest to look up (distance 1; next: zero 2). "
        "At step 1,000 it is nearest to look up (distance 0.2; next: zero 4). "
        "Its loss on set 'train' goes from 10 to 8 (nats) by step 1,000. "
        "The reference learners' own losses: look up 0.5."
    )


def test_without_a_change_the_middle_is_told():
    text = reading(story({step: {"zero": 0.1, "look_up": 3.0} for step in (0, 9, 99)}), "train")
    assert [part in text for part in ("At step 0 ", "At step 9 ", "At step 99 ")] == [True] * 3


def test_a_tie_is_called_a_tie():
    table = story(
        {0: {"zero": 1.0, "task_mean": 1.02, "look_up": 3.0}, 5: {"zero": 2.0, "task_mean": 1.5, "look_up": 0.1}}
    )
    assert (
        "At step 0 the model is about equally near to zero (1) and task mean (1.02) (further: look up 3)."
        in reading(table, "train")
    )
    assert "tie" not in reading(story({0: {"zero": 1.0, "task_mean": 1.02}}, se=0.001), "train")
    assert "nearest to zero" in reading(story({0: {"zero": 1.0, "task_mean": 1.02}}, se=0.001), "train")


def test_a_run_that_goes_back_and_forth_is_told_briefly():
    sides = [{"zero": 1.0, "look_up": 3.0}, {"zero": 3.0, "look_up": 1.0}] * 4
    text = reading(story(dict(zip((0, 1, 2, 5, 10, 20, 50, 99), sides, strict=True))), "train")
    assert text.count("At step") == 3


def test_one_checkpoint():
    text = reading(story({0: {"zero": 0.1}}), "train")
    assert text.startswith(
        "At step 0 the model is nearest to zero (distance 0.1). Its loss on set 'train' is 10 (nats)."
    )


def test_a_study_without_reference_learners():
    table = story({0: {}, 10: {}})
    table = table[table["learner"] == "model"]
    assert reading(table, "train") == "Its loss on set 'train' goes from 10 to 9 (nats) by step 10."


def test_nothing_evaluated():
    assert reading(story({0: {}}), "heldout") == "This run has no evaluation on set 'heldout' yet."


def test_the_story_of_finite_tasks(trained):
    text = reading(trained, "train")
    assert text.index("nearest to zero") < text.index("nearest to ridge") < text.index("nearest to dmmse")
