"""Probe targets of recall against its rows."""

from __future__ import annotations

from inlearn.core.draws import Address
from inlearn.lab.config import Seeds
from inlearn.studies.recall.config import RecallConfig

SEEDS = Seeds().following(0)


def test_targets_are_what_the_rows_say():
    study = RecallConfig.model_validate({"task": {"vocabulary": 32, "length": 32, "pairs": [2, 5]}}).build(SEEDS)
    batch = study.tasks["train"].sample(Address(SEEDS, "eval"), 30)
    found = study.probe_targets(batch)
    counted = set()
    for row in range(batch.rows):
        inputs, asked = batch.inputs[row].tolist(), batch.weights[row].nonzero().flatten().tolist()
        counted.add(len(asked))
        for place in asked:
            number = inputs[: 2 * len(asked) : 2].index(inputs[place])
            own = {name: int(values[row, place]) for name, values in found.items()}
            assert own == {
                "asked_value": int(batch.targets[row, place]),
                "asked_place": number,
                "pairs": len(asked) - 1,
                "first_value": inputs[1],
            }
        assert all(int((values[row] >= 0).sum()) == len(asked) for values in found.values())
    assert counted == {2, 5}
