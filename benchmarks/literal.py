"""The straightforward training loop of the published regression model: what the speed figures are measured against.

Plain modules as most people would write them: one fused projection reshaped to heads, an additive mask made from the
logarithm of a triangle of ones, every position computed, one optimiser update a parameter, the loss read each step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LiteralAttention(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.softmax = nn.Softmax(dim=-1)
        self.register_buffer("mask", torch.log(torch.tril(torch.ones(length, length))))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        d = C // self.heads
        qkv = self.attention(x).view(B, T, self.heads, 3 * d).transpose(-2, -3)
        q, k, v = qkv.split(d, dim=-1)
        scores = q @ k.transpose(-2, -1) / d**0.5 + self.mask[:T, :T]
        mixed = self.softmax(scores) @ v
        return self.output(mixed.transpose(-2, -3).contiguous().view(B, T, C))


class LiteralBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, length: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), LiteralAttention(width, heads, length)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LiteralTransformer(nn.Module):
    def __init__(self, dim: int, examples: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        length = 2 * examples
        self.embedding = nn.Linear(dim + 1, width, bias=False)
        self.positions = nn.Linear(length, width, bias=False)
        self.blocks = nn.ModuleList([LiteralBlock(width, heads, hidden, length) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight.T[: tokens.shape[1]]
        for block in self.blocks:
            x = x + block(x)  # the published double residual
        return self.head(x)


def literal_step(
    rows: int,
    dim: int = 4,
    examples: int = 8,
    variance: float = 0.125,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    device: str = "cpu",
) -> Callable[[], float]:
    """A closure that draws a batch, updates the paper's model (or one of other sizes) once and returns the loss."""
    model = LiteralTransformer(dim, examples, width, layers, heads, hidden=width).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003, foreach=False, fused=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.003, total_steps=500_000, pct_start=0.5, anneal_strategy="linear", cycle_momentum=False
    )

    def step() -> float:
        w = torch.randn(rows, dim, device=device)
        x = torch.randn(rows, examples, dim, device=device)
        noise = torch.randn(rows, examples, 1, device=device) * variance**0.5
        y = torch.einsum("nkd,nd->nk", x, w)[..., None] + noise
        tokens = torch.zeros(rows, 2 * examples, dim + 1, device=device)
        tokens[:, 0::2, 1:], tokens[:, 1::2, :1] = x, y
        optimiser.zero_grad()
        loss = (model(tokens)[:, 0::2, :1] - y).square().mean()
        loss.backward()
        optimiser.step()
        schedule.step()
        return loss.item()

    return step
