"""Optimisers and schedules: learning rate, loss weights, patch dropping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Schedules of the training, as functions of the step.

    The learning rate warms up, stays, and falls linearly to 0 over the last `decay_steps`: all steps by
    default in train_mini_clip.py, because a constant rate left the validation score of two trial runs where
    it was. `steps` may change on resume: a jump in what depends on step / steps did no harm.
    """

    steps: int
    decay_steps: int
    warmup_steps: int = 80

    def __post_init__(self) -> None:
        if not 0 <= self.decay_steps <= self.steps:
            raise ValueError(f"decay_steps is {self.decay_steps}; expected 0 to steps ({self.steps})")

    def rate(self, step: int) -> float:
        """Factor on the peak learning rates: linear warm-up, 1, linear to 0 over the last `decay_steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / self.decay_steps if self.decay_steps else 1.0
        return min(warm, left, 1.0)

    def drops_patches(self, step: int) -> bool:
        """Full images lose patches in the first half."""
        return step < self.steps / 2

    def margin_weight(self, step: int) -> float:
        """0.3, falling to 0 in the last third, so that the captions' word statistics decide in the end."""
        return 0.3 * min(1.0, 3 * (1 - step / self.steps))

    def mask_weight(self, step: int) -> float:
        """1.0 falling linearly to 0.2."""
        return 1.0 - 0.8 * step / self.steps


def build_optimizers(
    model: nn.Module, heads: nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices; AdamW for embeddings, projections, norms, biases and heads."""
    blocks = [p for name, p in model.named_parameters() if ".resblocks." in f".{name}" and p.ndim == 2]
    chosen = {id(p) for p in blocks}
    rest = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, lr=muon_lr, momentum=0.95, weight_decay=weight_decay)
    # No weight decay here: rare words' embeddings would shrink between their few appearances.
    adamw = torch.optim.AdamW(rest, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [muon, adamw]
