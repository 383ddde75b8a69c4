"""Rows whose learner reads what it said itself: against whole rows read anew for every answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure, Study
from inlearn.core.draws import Address, integers
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab import discovery
from inlearn.lab.config import Seeds
from inlearn.models.initialise import initialise

SYMBOLS, ANSWERS, LENGTH, ROWS = 7, Tokens(5, among=4), 11, 6
INTERFACE = Interface(Tokens(SYMBOLS), ANSWERS, LENGTH)


class Free:
    """Answers at odd positions from a start that differs from row to row; the next input is the answer, or is not."""

    interface, labels = INTERFACE, {}

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        inputs = integers(at.key("inputs"), rows, SYMBOLS, (LENGTH,), first)
        place, start = torch.arange(LENGTH), 2 + torch.arange(first, first + rows)[:, None] % 3
        scored = (place >= start) & (place % 2 == 1)
        back = torch.zeros_like(scored)
        back[:, 1:] = scored[:, :-1]
        targets = integers(at.key("targets"), rows, 4, (LENGTH,), first)
        return Batch(inputs, targets, scored.float(), feedback=back)


def model(kind: str, **fields) -> torch.nn.Module:
    built = discovery.models()[kind](width=8, layers=2, init="uniform", **fields).build(INTERFACE)
    initialise(built, Seeds().following(3))
    return built.eval()


@pytest.mark.parametrize("kind", ["transformer", "lstm", "mamba"])
def test_each_answer_is_that_of_the_row_so_far(kind):
    learner, batch = model(kind), Free().sample(Address(Seeds().following(0), "eval"), ROWS)
    batch.check(INTERFACE)
    literal = []
    with torch.no_grad():
        for row in range(ROWS):
            inputs = batch.inputs[row : row + 1].clone()
            for place in range(LENGTH):
                if batch.feedback[row, place]:
                    inputs[0, place] = learner(inputs[:, :place])[0][0, -1, :4].argmax()
                if batch.weights[row, place]:
                    said = learner(inputs[:, : place + 1])[0][0, -1]
                    literal.append(ANSWERS.prediction(said.double()))
    found = predictor(learner, Free(), torch.device("cpu"))(batch)
    torch.testing.assert_close(found, torch.stack(literal), rtol=1e-5, atol=1e-5)
    forced = predictor(learner, Free(), torch.device("cpu"))(replace(batch, feedback=None))
    assert (found - forced)[:, :4].abs().max() > 1e-3  # it was the learner's own symbols that were read


def test_distances_are_not_measured_there_and_losses_are():
    class Uniform:
        name, mechanism = "uniform", "none"

        def predict(self, batch):
            return ANSWERS.prediction(torch.zeros(len(batch.scored), 5, dtype=torch.float64))

    class Small(Study):
        tasks = {"train": Free()}  # noqa: RUF012
        measures = (Measure("loss", "nats", "", lambda b, s, p: s.loss(p, b.at_scored(b.targets))),)

        def references(self, name):
            return [Uniform()]

        def evaluation_rows(self, name):
            return 20

    lines = Evaluator(Small(), Seeds().following(0)).references()
    assert [line["measure"] for line in lines] == ["loss"]
    assert lines[0]["mean"] == [pytest.approx(torch.log(torch.tensor(4.0)).item())]


def test_a_part_of_a_batch_is_fed_back_as_the_whole():
    batch = Free().sample(Address(Seeds().following(0), "eval"), ROWS)
    assert torch.equal(batch.part(2, 3).feedback, batch.feedback[2:5])
    shared = replace(batch, prefix=torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(shared.unshared().feedback[:, 4:], batch.feedback)
    assert not shared.unshared().feedback[:, :4].any()


def test_one_head_for_fewer_symbols():
    outputs = torch.randn(3, 5)
    prediction = ANSWERS.prediction(outputs)
    torch.testing.assert_close(prediction[:, :4], outputs[:, :4].log_softmax(-1))
    assert (prediction[:, 4] == -torch.inf).all()
    assert torch.isfinite(ANSWERS.divergence(prediction, ANSWERS.prediction(torch.randn(3, 5)))).all()
    assert ANSWERS.read_alike(Tokens(5)) and not ANSWERS.read_alike(Tokens(4))


def test_training_rows_cannot_have_it(tmp_path):
    from inlearn.lab.session import start

    source = tmp_path / "free.py"
    source.write_text(
        "from typing import Literal\n"
        "from dataclasses import replace\n"
        "from inlearn.core.configuration import StudyConfig\n"
        "class FreeConfig(StudyConfig):\n"
        "    kind: Literal['free'] = 'free'\n"
        "    def build(self, seeds, batch=None):\n"
        "        import torch\n"
        "        from inlearn.studies.recall.config import RecallConfig\n"
        "        study = RecallConfig().build(seeds)\n"
        "        class Task:\n"
        "            interface, labels = study.interface, {}\n"
        "            def sample(self, at, rows, first=0):\n"
        "                batch = task.sample(at, rows, first)\n"
        "                return replace(batch, feedback=torch.zeros_like(batch.inputs, dtype=torch.bool))\n"
        "        task = study.tasks['train']\n"
        "        study.tasks['train'] = Task()\n"
        "        return study\n"
    )
    with pytest.raises(UserError, match="rows with feedback are for evaluation sets alone"):
        start(str(source), ["training.steps=2"], tmp_path / "runs", lambda text: None)
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
