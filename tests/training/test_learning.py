"""Training learns what must be learned, by a margin that noise cannot cross."""

from __future__ import annotations

from inlearn.lab.session import start


def test_a_small_transformer_learns_in_context(tmp_path):
    """D=1, K=4, noise 0.01, where answering zero costs 1.01 and ridge costs 1.01, then less than 0.02.

    A model that ignores its context cannot get below 1.01 at any example, so the fourth tells. Seen on three seeds:
    0.08 to 0.14 at the fourth example and 0.37 to 0.40 on average.
    """
    asked = (
        "task.dimension=1",
        "task.examples=4",
        "task.noise_variance=0.01",
        "model.width=32",
        "model.heads=2",
        "model.init=uniform",
        "training.batch=128",
        "training.steps=500",
        "training.rate=0.003",
        "record.evaluations=never",
        "record.checkpoints=never",
        "evaluation.rows=2000",
        "evaluation.gain_rows=8",
    )
    run = start("regression", asked, tmp_path, lambda text: None)
    table = run.evaluations
    model = table[(table["learner"] == "model") & (table["measure"] == "loss") & (table["set"] == "train")]
    last = model[(model["step"] == 500) & (model["by"] == "position")].set_index("level")["mean"]
    assert last[(0,)] > 0.8, "nothing is known before the first example"
    assert last[(3,)] < 0.5
    first = model[(model["step"] == 0) & (model["by"] == "")]["mean"].iloc[0]
    end = model[(model["step"] == 500) & (model["by"] == "")]["mean"].iloc[0]
    assert end < 0.65 < first
    near = table[
        (table["learner"] == "model")
        & (table["measure"] == "distance")
        & (table["by"] == "")
        & (table["set"] == "train")
    ]
    near = near[near["step"] == 500].set_index("reference")["mean"]
    assert near["ridge"] < near["zero"], "the model is nearer to learning in context than to predicting zero"
