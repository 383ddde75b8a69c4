"""What a probe may look for in a model of in-context regression: the task vector that it was never shown."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.batch import Batch


def probe_targets(batch: Batch) -> dict[str, Tensor]:
    """task_vector: (N, T, D), the same all along a row."""
    w = batch.latents.w
    return {"task_vector": w[:, None].expand(-1, batch.weights.shape[1], -1)}
