"""What compiling a step gains, how long it takes, and after how many steps that is repaid; one thread.

    python benchmarks/compile.py

- eager: our step (flat buffer, fused update), solo or a stack
- usual: the same with `torch.compile` around the loss, autograd between two graphs; for the paper's model only
- compiled: models/compiled.py, forward and backward as one graph

Seconds are those of the first call with nothing cached on disk. Rounds are interleaved; the least time of each is
kept, per step of all members. Writes benchmarks/results/compile.json.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from measuring import fastest, print_table, store
from torch import Tensor, nn

from inlearn.core.device import keep_freed_memory
from inlearn.core.spaces import Interface, Vectors
from inlearn.lab.config import Seeds
from inlearn.models.compiled import CompiledGradients
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.transformer_config import TransformerConfig

PAPER = {"dim": 4, "examples": 8, "width": 64, "layers": 2, "heads": 4, "mlp": 64}
SMALL = PAPER | {"width": 16}
DEEP = {"dim": 8, "examples": 16, "width": 128, "layers": 8, "heads": 2, "mlp": 128}
CASES: dict[str, tuple[dict[str, int], int | None, int]] = {  # model, members, batch
    "paper-lr, batch 8": (PAPER, None, 8),
    "paper-lr, batch 32": (PAPER, None, 32),
    "paper-lr, batch 256": (PAPER, None, 256),
    "deep-lr, batch 32": (DEEP, None, 32),
    "16 of 7k, batch 32": (SMALL, 16, 32),
    "64 of 7k, batch 8": (SMALL, 64, 8),
    "16 of 7k, batch 8": (SMALL, 16, 8),
    "16 of paper-lr, batch 32": (PAPER, 16, 32),
}
Step = Callable[[], None]


class Case:
    """One problem, from which each way of stepping takes a model of its own."""

    def __init__(self, shape: dict[str, int], members: int | None, rows: int):
        self.members, self.steps = members, 2 * shape["examples"] - 1
        width = shape["width"]
        self.config = TransformerConfig(
            width=width, layers=shape["layers"], heads=shape["heads"], mlp=max(64, shape["mlp"]), activation="relu",
            residual="double", init="uniform",
        )  # fmt: skip
        dim = shape["dim"] + 1
        self.interface = Interface(Vectors(dim), Vectors(dim, answers=1), 2 * shape["examples"])
        lead = () if members is None else (members,)
        self.inputs = torch.randn(*lead, rows, self.steps, dim)
        self.targets = torch.randn(*lead, rows * shape["examples"])

    def model(self) -> nn.Module:
        made = [self.config.build(self.interface) for _ in range(self.members or 1)]
        for number, model in enumerate(made):
            initialise(model, Seeds().following(number))
        return made[0] if self.members is None else stack(made)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[..., 0] - targets).square().mean(-1)

    def plain(self, around: Callable[[Any], Any] = lambda function: function) -> Step:
        model = self.model()
        flat = FlatParameters(model)
        optimiser = torch.optim.Adam([flat.values], fused=True)
        scored = slice(0, self.steps, 2)
        loss = around(lambda inputs, targets: self.losses(model(inputs, scored=scored)[0], targets).sum())

        def step() -> None:
            flat.zero()
            loss(self.inputs, self.targets).backward()
            optimiser.step()

        return step

    def usual(self) -> Step:
        return self.plain(lambda function: torch.compile(function, fullgraph=True, dynamic=False))

    def compiled(self) -> Step:
        model = self.model()
        flat = FlatParameters(model)
        optimiser = torch.optim.Adam([flat.values], fused=True)
        scored = {"scored": slice(0, self.steps, 2)}

        def losses(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            return self.losses(torch.func.functional_call(model, parameters, (inputs,), scored)[0], targets)

        gradients = CompiledGradients(flat, losses)

        def step() -> None:
            flat.zero()
            gradients(self.inputs, self.targets)
            optimiser.step()

        return step


def seconds_of_first(step: Step) -> float:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo tells of every cache that it looks through
        step()
    return time.perf_counter() - start


def measure(name: str) -> dict[str, Any]:
    torch._dynamo.reset()
    case = Case(*CASES[name])
    steps, seconds = {"eager": case.plain(), "compiled": case.compiled()}, {}
    if name.startswith("paper-lr, batch 256"):
        steps["usual"] = case.usual()
        seconds["usual"] = seconds_of_first(steps["usual"])
    seconds["compiled"] = seconds_of_first(steps["compiled"])
    best = fastest(steps, 4)
    saved = best["eager"] - best["compiled"]
    repaid = round(seconds["compiled"] * 1e3 / saved) if saved > 0 else None
    return {"ms": best, "seconds": seconds, "gain": best["eager"] / best["compiled"], "repaid_after": repaid}


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        results = {name: measure(name) for name in CASES}
    rows = [
        (name, r["ms"]["eager"], r["ms"].get("usual", float("nan")), r["ms"]["compiled"], r["gain"],
         r["seconds"]["compiled"], r["repaid_after"])
        for name, r in results.items()
    ]  # fmt: skip
    print_table(("step", "eager ms", "usual ms", "compiled ms", "gain", "compile s", "repaid after steps"), rows)
    store("compile", {"steps": results})


if __name__ == "__main__":
    main()
