"""Features whose linear information is known: one axis a class, noise on others, in rows of several questions."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, QUESTIONS, CLASSES, WIDTH = 120, 6, 4, 12
PARTS = (slice(0, 72 * QUESTIONS), slice(72 * QUESTIONS, 96 * QUESTIONS), slice(96 * QUESTIONS, ROWS * QUESTIONS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (ROWS * QUESTIONS,), generator=generator(seed))


def noise(seed: int = 1) -> Tensor:
    return torch.randn(ROWS * QUESTIONS, WIDTH, generator=generator(seed))


def planted(classes: Tensor, strength: float, seed: int = 1) -> Tensor:
    """Noise, with `strength` times a random direction of each class added; far from mean 0 and deviation 1."""
    directions = torch.randn(CLASSES, WIDTH, generator=generator(2))
    return 3.0 + 0.2 * (noise(seed) + strength * directions[classes])


def rows() -> Tensor:
    return torch.arange(ROWS * QUESTIONS) // QUESTIONS
