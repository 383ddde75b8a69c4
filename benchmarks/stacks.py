"""Stacks of regression models: milliseconds of one member's step against the same step alone, on one thread.

    python benchmarks/stacks.py

- eager: the obvious loop over the same model with one optimiser update a parameter, every position computed
- solo: our model alone, one flat buffer, one fused update
- stacks of 1, 4, 16 and 64: one update for all (equal settings), data given in every case

`work` is parameters × tokens of a member's step: below a constant of it stacks pay. The second table compares forms of
the fused update for 64 members: all rows as one parameter, rows in one group, a group a row (settings of their own).
Rounds are interleaved; the least time of each is kept. Writes benchmarks/results/stacks.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from measuring import fastest, print_table, store
from torch import Tensor, nn

from inlearn.core.device import keep_freed_memory
from inlearn.core.spaces import Interface, Vectors
from inlearn.lab.config import Seeds
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.transformer_config import TransformerConfig

DIM, EXAMPLES = 4, 8
STEPS, SCORED = 2 * EXAMPLES - 1, slice(0, 2 * EXAMPLES - 1, 2)
SIZES = {"2k": (8, 2), "7k": (16, 4), "26k": (32, 4), "52k": (64, 4), "206k": (128, 4)}  # width, heads; two layers
BATCHES = (8, 32, 256)
MEMBERS = (1, 4, 16, 64)
MOST_WORK = 2e8  # of one member: far above it stacks only cost time here
Optimiser = Callable[[FlatParameters], torch.optim.Optimizer]

UPDATES: dict[str, Optimiser] = {
    "one parameter": lambda flat: torch.optim.Adam([flat.values], fused=True),
    "rows in one group": lambda flat: torch.optim.Adam(flat.rows, fused=True),
    "a group a row": lambda flat: torch.optim.Adam([{"params": [row]} for row in flat.rows], fused=True),
}


def models(size: str, count: int) -> list[nn.Module]:
    width, heads = SIZES[size]
    config = TransformerConfig(
        width=width, heads=heads, mlp=width if width > 32 else 4 * width, activation="relu", residual="double",
        init="uniform",
    )  # fmt: skip
    interface = Interface(Vectors(DIM + 1), Vectors(DIM + 1, answers=1), 2 * EXAMPLES)
    made = [config.build(interface) for _ in range(count)]
    for number, model in enumerate(made):
        initialise(model, Seeds().following(number))
    return made


def data(members: Iterable[int], rows: int) -> tuple[Tensor, Tensor]:
    lead = tuple(members)
    return torch.randn(*lead, rows, STEPS, DIM + 1), torch.randn(*lead, rows * EXAMPLES)


def eager_step(size: str, rows: int) -> Callable[[], float]:
    model = models(size, 1)[0]
    optimiser = torch.optim.Adam(model.parameters(), foreach=False, fused=False)
    inputs, targets = torch.randn(rows, 2 * EXAMPLES, DIM + 1), torch.randn(rows, EXAMPLES)

    def step() -> float:
        optimiser.zero_grad()
        loss = (model(inputs)[0][:, 0::2, 0] - targets).square().mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def our_step(size: str, rows: int, members: int | None, update: Optimiser = UPDATES["one parameter"]) -> Any:
    """Our step: of one model (members None) or of a stack."""
    solo = models(size, members or 1)
    model = solo[0] if members is None else stack(solo)
    flat = FlatParameters(model)
    optimiser = update(flat)
    inputs, targets = data(() if members is None else (members,), rows)

    def step() -> None:
        flat.zero()
        outputs, _ = model(inputs, scored=SCORED)
        (outputs[..., 0] - targets).square().mean(-1).sum().backward()
        optimiser.step()

    return step


def compare_sizes() -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    results, rows = [], []
    for size in SIZES:
        parameters = sum(p.numel() for p in models(size, 1)[0].parameters())
        for batch in BATCHES:
            work = parameters * batch * STEPS
            if work > MOST_WORK:
                continue
            steps = {"eager": eager_step(size, batch), "solo": our_step(size, batch, None)}
            counts = [count for count in MEMBERS if count * work <= 8 * MOST_WORK]
            steps |= {str(count): our_step(size, batch, count) for count in counts}
            best = fastest(steps, 5)
            each = {name: ms / (int(name) if name.isdigit() else 1) for name, ms in best.items()}
            gains = {str(count): each["solo"] / each[str(count)] for count in counts}
            results.append({"parameters": parameters, "batch": batch, "work": work, "ms": each, "gain": gains})
            cells = [each.get(str(count), float("nan")) for count in MEMBERS]
            best_gain = max(gains, key=gains.__getitem__)
            rows.append((parameters, batch, f"{work:.1e}", each["eager"], each["solo"], *cells, gains[best_gain],
                         best_gain, each["eager"] / each[best_gain]))  # fmt: skip
    return results, rows


def compare_updates(size: str = "7k", batch: int = 8, members: int = 64) -> dict[str, float]:
    steps = {name: our_step(size, batch, members, update) for name, update in UPDATES.items()}
    return {name: ms / members for name, ms in fastest(steps, 8).items()}


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    sizes, rows = compare_sizes()
    header = ("parameters", "batch", "work", "eager", "solo", *map(str, MEMBERS), "solo / best", "best", "eager / best")
    print_table(header, rows)
    updates = compare_updates()
    print_table(("update of 64 × 7k, batch 8", "ms a member-step"), list(updates.items()))
    store("stacks", {"sizes": sizes, "updates": updates})


if __name__ == "__main__":
    main()
