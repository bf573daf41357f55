"""Feature maps of several layers of a network: what the few-shot baselines read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

FeatureMaps = Mapping[str, Tensor]  # layer -> (n, rows, columns, channels); shallow first, grids may differ
Shapes = dict[str, tuple[int, ...]]  # layer -> (rows, columns, channels)


def one_by_one(maps: FeatureMaps) -> list[dict[str, Tensor]]:
    """Each image's maps, (1, rows, columns, channels) by layer."""
    return [{name: x[i : i + 1] for name, x in maps.items()} for i in range(len(next(iter(maps.values()))))]


def shapes_of(maps: FeatureMaps) -> Shapes:
    """(rows, columns, channels) by layer."""
    return {name: tuple(x.shape[1:]) for name, x in maps.items()}


def checked_maps(
    what: str, maps: FeatureMaps, layers: Sequence[str] | None, shapes: Shapes | None = None
) -> dict[str, Tensor]:
    """The wanted layers (None: all) as float32 on the CPU, or an error that says what is wrong with them."""
    names = list(maps if layers is None else layers)
    missing = [name for name in names if name not in maps]
    if missing or not names:
        raise ValueError(
            f"{what}: layers {', '.join(maps) or 'none'}; expected {', '.join(missing) or 'at least one'}"
        )
    checked = {name: torch.as_tensor(maps[name]).detach().cpu().float() for name in names}
    for name, x in checked.items():
        if x.ndim != 4 or 0 in x.shape[1:]:
            raise ValueError(f"{what}: {name} is {tuple(x.shape)}; expected (n, rows, columns, channels)")
        if shapes is not None and tuple(x.shape[1:]) != shapes[name]:
            raise ValueError(
                f"{what}: {name} has (rows, columns, channels) {tuple(x.shape[1:])}, in the references "
                f"{shapes[name]}; take both from one backbone, at one image size"
            )
        if not x.isfinite().all():
            raise ValueError(f"{what}: {name} holds NaN or infinite features; check images and weights")
    counts = {name: len(x) for name, x in checked.items()}
    if len(set(counts.values())) > 1 or (what == "references" and 0 in counts.values()):
        expected = "one number, at least 1" if what == "references" else "one number"
        raise ValueError(f"{what}: images by layer {counts}; expected {expected}")
    return checked
