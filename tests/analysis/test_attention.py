"""Where heads look: kinds of positions and shares against loops, even attention, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inlearn.analysis.attention.config import AttentionConfig
from inlearn.analysis.attention.kinds import kinds
from inlearn.analysis.subject import Subject
from inlearn.core.draws import Address, integers
from inlearn.core.errors import UserError
from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab import discovery
from inlearn.lab.analyse import analyse
from inlearn.lab.build import build_model, build_study
from inlearn.lab.config import Seeds, compose
from inlearn.lab.opened import Run
from inlearn.lab.session import start
from inlearn.models import activations

SMALL = ("task.vocabulary=16", "task.length=16", "task.pairs=2", "evaluation.rows=16", "evaluation.pair_rows=8")


def quiet(text: str) -> None:
    pass


def subject(*words: str, study: str = "recall") -> Subject:
    config = compose(discovery.study(study), [*(SMALL if study == "recall" else ()), *words])
    live, device = build_study(config), torch.device("cpu")

    def model(seed: int = 0) -> torch.nn.Module:
        own = config.model_copy(update={"seeds": Seeds(init=seed).following(seed)})
        return build_model(own, live.interface, device)

    return Subject(live, model(), lambda: model(1), Evaluator(live, Seeds().following(0)).seeds, device)


def slow_kind(row: list[int], place: int, kind: str) -> set[int]:
    if kind in ("previous", "self"):
        return {p for p in [place - (kind == "previous")] if p >= 0}
    k = int(kind[-2])
    last = row[place - k + 1 : place + 1] if place >= k - 1 else None
    found = {j for j in range(k - 1, place) if row[j - k + 1 : j + 1] == last}
    return {j + 1 for j in found} if kind.startswith("after") else found


def test_kinds_of_positions_are_those_of_a_loop():
    symbols = integers(Address(Seeds().following(0), "eval").key("x"), 20, 3, (13,))
    row, place = (t.flatten() for t in torch.meshgrid(torch.arange(20), torch.arange(13), indexing="ij"))
    found = kinds(symbols, row, place, (1, 2, 3))
    for kind, where in found.items():
        for i in range(len(row)):
            assert set(where[i].nonzero().flatten().tolist()) == slow_kind(
                symbols[row[i]].tolist(), int(place[i]), kind
            )


def test_shares_are_those_of_a_loop():
    looked = subject("model.width=8", "model.layers=2", "model.heads=2", "model.init=uniform")
    result = AttentionConfig(rows=9, orders=(1, 2)).build(quiet).run(looked)
    batch = looked.batch("train", 9)
    with torch.no_grad(), activations.capture(looked.model.eval(), ["blocks.*.attention.pattern"]) as seen:
        looked.model(batch.inputs)
    for h, head in enumerate(result.labels["head"]):
        layer, number = map(int, head.split("."))
        for k, kind in enumerate(result.labels["kind"]):
            shares = []
            for row, place in (batch.weights > 0).nonzero().tolist():
                where = slow_kind(batch.inputs[row].tolist(), place, kind)
                if where:
                    pattern = seen[f"blocks.{layer}.attention.pattern"][row, number, place]
                    shares.append(sum(float(pattern[p]) for p in where))
            wanted = np.mean(shares) if shares else math.nan
            assert result.arrays["share"][0, h, k] == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_even_attention_is_the_baseline():
    looked = subject("model.width=8", "model.heads=2")
    with torch.no_grad():
        for name, parameter in looked.model.named_parameters():
            if ".attention.q" in name or ".attention.k" in name:
                parameter.zero_()
    result = AttentionConfig(rows=30).build(quiet).run(looked)
    even = np.broadcast_to(result.arrays["even"], result.arrays["share"][0].shape)
    np.testing.assert_allclose(result.arrays["share"][0], even, atol=1e-6)
    assert np.abs(result.arrays["share"][1] - even).max() > 1e-4  # the untrained network's are its own


def test_from_a_run_and_kept(tmp_path):
    run = start("recall", [*SMALL, "model.width=8", "training.steps=2", "record.checkpoints=never"], tmp_path, quiet)
    checkpoint = Run(run.folder).checkpoint("last")
    done = analyse(checkpoint, "attention", ["rows=8", "orders=1"], say=quiet)
    assert list(done.data["share"].dims) == ["network", "head", "kind"] and done.figures
    assert [columns[0] for _, columns, _ in done.tables] == ["looks at"]
    assert analyse(checkpoint, "attention", ["rows=8", "orders=1"], say=quiet).path == done.path


@pytest.mark.parametrize(
    ("words", "study", "said"),
    [(["model=lstm"], "recall", "no attention pattern"), ([], "regression", "rows of vectors")],
)
def test_refusals(words, study, said):
    with pytest.raises(UserError, match=said):
        AttentionConfig().build(quiet).run(subject(*words, study=study))
