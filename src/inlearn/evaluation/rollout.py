"""Models that act: token by token generation, with an environment that may answer in between.

All rows advance together, one token a step, on the model's state. Prompts of different lengths and an
environment's replies are the same thing here: tokens that are forced instead of chosen. So no padding is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inlearn.core.contract import Environment, Model
from inlearn.core.draws import Address, uniform

Choose = Callable[[Tensor, int], Tensor]
"""(rows, size) outputs and the number of tokens so far -> (rows,) chosen symbols."""


def greedy(outputs: Tensor, position: int) -> Tensor:
    return outputs.argmax(-1)


def sampled(at: Address, temperature: float = 1.0) -> Choose:
    """Draws from the softmax by the inverse of its cumulative sum, addressed by position and row."""

    def choose(outputs: Tensor, position: int) -> Tensor:
        chance = uniform(at.key("choice", position), outputs.shape[0]).to(outputs.device, torch.float64)
        cumulative = (outputs.double() / temperature).softmax(-1).cumsum(-1)
        return torch.searchsorted(cumulative, chance[:, None]).squeeze(-1).clamp(max=outputs.shape[-1] - 1)

    return choose


@torch.inference_mode()
def rollout(
    model: Model,
    prompts: Sequence[Sequence[int]],
    limit: int,
    environment: Environment | None = None,
    choose: Choose = greedy,
) -> list[list[int]]:
    """Each prompt continued until the environment says done or the row has `limit` tokens (prompt included).

    The environment is asked whenever nothing is forced on a row: `reply(row, tokens)` gives tokens to force, an
    empty sequence to let the model choose, or None when the row is done. Raises ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    common = min(map(len, prompts))
    rows = [list(prompt[:common]) for prompt in prompts]
    forced = [deque(prompt[common:]) for prompt in prompts]
    done = [False] * len(rows)
    device = next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")
    outputs, state = model(torch.tensor(rows, device=device))
    while True:
        chosen = choose(outputs[:, -1], max(map(len, rows))).tolist()
        for index, row in enumerate(rows):
            if done[index]:
                continue
            if not forced[index] and environment is not None:
                reply = environment.reply(index, row)
                done[index] = reply is None
                forced[index].extend(reply or ())
            done[index] = done[index] or len(row) >= limit
            if not done[index]:
                row.append(forced[index].popleft() if forced[index] else chosen[index])
        if all(done):
            return rows
        # A row that is done is fed its last token again: its state is no longer read.
        outputs, state = model(torch.tensor([[row[-1]] for row in rows], device=device), state)
