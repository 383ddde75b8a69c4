"""A probe of an LSTM 256x2 on 2,000 rows of automata's 5s5a, everything included: processor seconds of each part.

    python benchmarks/probe.py [rows]

Five activations (embedded inputs, hidden and cell of each layer) by 30 targets, with both controls. The network is
untrained: what it computes takes as long. `forward` runs the network and keeps activations (twice, for the untrained
control), `fit` fits, chooses and judges. Target: at most 30 s besides `forward` on one core. Writes results/probe.json.
"""

from __future__ import annotations

import sys
import time

import torch
from measuring import print_table, store

from inlearn.analysis.probe import method
from inlearn.analysis.probe.config import ProbeConfig
from inlearn.analysis.subject import Subject
from inlearn.lab.config import Seeds
from inlearn.models.initialise import initialise
from inlearn.models.lstm_config import LSTMConfig
from inlearn.studies.automata.config import AutomataConfig

SEEDS = Seeds().following(0)


def main(rows: int) -> None:
    torch.set_num_threads(1)
    study = AutomataConfig.model_validate({"task": {"kind": "machines", "states": 5, "actions": 5}}).build(SEEDS)

    def network(seed: int) -> torch.nn.Module:
        model = LSTMConfig(width=256, layers=2).build(study.interface)
        initialise(model, Seeds().following(seed))
        return model.eval()

    spent = {"forward": 0.0, "fit": 0.0}

    def timed(part, function):
        def call(*arguments):
            before = time.process_time()
            found = function(*arguments)
            spent[part] += time.process_time() - before
            return found

        return call

    method.at_scored, method.fitted = timed("forward", method.at_scored), timed("fit", method.fitted)
    before = time.process_time()
    subject = Subject(study, network(0), lambda: network(1), SEEDS, torch.device("cpu"))
    result = method.ProbeMethod(ProbeConfig(rows=rows), print).run(subject)
    whole = time.process_time() - before
    numbers = {
        "rows": rows,
        "questions": result.facts["questions"],
        "targets": len(result.labels["target"]) - 1,
        "activations": len(result.labels["activation"]),
        "forward_s": spent["forward"],
        "fit_s": spent["fit"],
        "besides_forward_s": whole - spent["forward"],
    }
    print_table(["what", "value"], [[name, f"{value:,.1f}"] for name, value in numbers.items()])
    store("probe", numbers)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
