"""Every model's forward and backward pass, milliseconds and memory: 8 rows, two layers, 21 symbols in, 8 out, one core.

    python benchmarks/zoo.py

- step: every registered model at its defaults; `/ lstm` against our LSTM of equal width (target: at most 3), `/ torch`
  against torch's own nn.LSTM, nn.GRU or nn.RNN of the same size (target: at most 1.1)
- literal: the same model one position after another (`recurrence.sequential`), at length 645 (target: at least 5 times)
- saved: bytes that the forward pass keeps for the backward one, as lab/footprint.py counts them; resident: by how much
  the process grew at most during a step, weights and gradients not counted
- members: a member's share of a step of 4 and 16 together, against one alone, at width 64 and length 165

What a ratio compares was timed in one interleaved round; the least time of each is kept. Writes results/zoo.json.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measuring import fastest, print_table, store
from torch import Tensor, nn

from inlearn.core.device import keep_freed_memory
from inlearn.core.spaces import Interface, Tokens
from inlearn.lab import discovery
from inlearn.lab.config import Seeds
from inlearn.lab.footprint import saved_bytes
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.recurrence import sequential

ROWS, LAYERS, SYMBOLS, ANSWERS = 8, 2, 21, 8
SIZES = [(64, 165), (64, 645), (256, 165), (256, 645)]  # width, length
SECONDS = {(64, 165): 8, (64, 645): 15, (256, 165): 15, (256, 645): 40}  # of rounds, at each size
LITERAL_SECONDS = 2
MEMBERS = (4, 16)
TORCHS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
KINDS = tuple(discovery.models())
Step = Callable[[], None]


class Plain(nn.Module):
    """A recurrent model as most people would write it."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(SYMBOLS, width), nn.Linear(width, ANSWERS)
        self.recurrence = TORCHS[kind](width, width, LAYERS, batch_first=True)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        return self.head(self.recurrence(self.embedding(inputs))[0]), None


def ours(kind: str, width: int, length: int, seed: int = 0) -> nn.Module:
    config = discovery.models()[kind](width=width, layers=LAYERS)
    model = config.build(Interface(Tokens(SYMBOLS), Tokens(ANSWERS), length))
    initialise(model, Seeds().following(seed))
    return model


def loss_of(model: nn.Module, length: int, lead: Sequence[int] = ()) -> Callable[[], Tensor]:
    """Cross-entropy at every position, summed over members; the same rows for every model."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(SYMBOLS, (*lead, ROWS, length), generator=generator)
    targets = torch.randint(ANSWERS, (*lead, ROWS, length), generator=generator).flatten()

    def loss() -> Tensor:
        return F.cross_entropy(model(inputs)[0].flatten(0, -2), targets)

    return loss


def step_of(model: nn.Module, length: int, lead: Sequence[int] = ()) -> Step:
    loss = loss_of(model, length, lead)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    return step


def literal(step: Step) -> Step:
    def slowly() -> None:
        with sequential():
            step()

    return slowly


# ---------------------------------------------------------------- memory


def resident_growth(step: Step) -> int | None:
    """Bytes by which the process grows at most in a step; None where Linux does not say."""
    step()  # what is made once
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak counts from here
        before = _status("VmRSS")
        step()
        return _status("VmHWM") - before
    except OSError:
        return None


def measure_memory() -> dict[tuple[str, int, int], dict[str, int | None]]:
    found = {}
    for width, length in SIZES:
        for kind in KINDS:
            model = ours(kind, width, length)
            saved, resident = saved_bytes(model, loss_of(model, length)), resident_growth(step_of(model, length))
            found[kind, width, length] = {"saved_bytes": saved, "resident_bytes": resident}
    return found


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


# ---------------------------------------------------------------- tables


def compare_sizes() -> list[dict[str, Any]]:
    memory = measure_memory()
    keep_freed_memory()  # as a run does; what is resident was looked at before
    results = []
    for width, length in SIZES:
        models = {kind: ours(kind, width, length) for kind in KINDS}
        steps = {kind: step_of(model, length) for kind, model in models.items()}
        plain = {f"torch {kind}": step_of(Plain(kind, width), length) for kind in TORCHS if kind in KINDS}
        best = fastest(steps | plain, SECONDS[width, length])
        for kind, model in models.items():
            result: dict[str, Any] = {
                "model": kind,
                "width": width,
                "length": length,
                "parameters": sum(p.numel() for p in model.parameters()),
                "ms": best[kind],
                **memory[kind, width, length],
            }
            if "lstm" in KINDS:
                result["times_lstm"] = best[kind] / best["lstm"]
            if kind in TORCHS:
                result["torch_ms"] = best[f"torch {kind}"]
                result["times_torch"] = best[kind] / best[f"torch {kind}"]
            if length == 645 and kind != "transformer":  # which has no recurrence
                result |= against_literal(steps[kind])
            results.append(result)
    return results


def against_literal(step: Step) -> dict[str, float]:
    best = fastest({"fast": step, "literal": literal(step)}, LITERAL_SECONDS)
    return {"literal_ms": best["literal"], "times_faster_than_literal": best["literal"] / best["fast"]}


def compare_members(width: int = 64, length: int = 165) -> list[dict[str, Any]]:
    results = []
    for kind in KINDS:
        steps = {"1": step_of(ours(kind, width, length), length)}
        for count in MEMBERS:
            members = stack([ours(kind, width, length, seed) for seed in range(count)])
            steps[str(count)] = step_of(members, length, (count,))
        best = fastest(steps, 4)
        results.append({"model": kind, "ms_a_member": {name: ms / int(name) for name, ms in best.items()}})
    return results


def main() -> None:
    torch.set_num_threads(1)
    sizes = compare_sizes()
    columns = {
        "model": "model", "width": "width", "length": "length", "parameters": "parameters", "ms": "ms",
        "times_lstm": "/ lstm", "times_torch": "/ torch", "times_faster_than_literal": "literal /",
    }  # fmt: skip
    rows = []
    for result in sizes:
        cells = [result.get(key, "") for key in columns]
        memory = [result[key] for key in ("saved_bytes", "resident_bytes")]
        rows.append((*cells, *("" if size is None else size / 1e6 for size in memory)))
    print_table((*columns.values(), "saved MB", "resident MB"), rows)
    members = compare_members()
    counts = ("1", *map(str, MEMBERS))
    print_table(
        ("ms a member, width 64, length 165", *counts, "1 / best"),
        [
            (r["model"], *(r["ms_a_member"][c] for c in counts), r["ms_a_member"]["1"] / min(r["ms_a_member"].values()))
            for r in members
        ],
    )
    store("zoo", {"rows": ROWS, "layers": LAYERS, "sizes": sizes, "members": members})


if __name__ == "__main__":
    main()
