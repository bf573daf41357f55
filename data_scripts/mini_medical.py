"""The medical-looking mini datasets: which categories they have, and how one picture pair is finished.

`mini_medical_image`: scans with image labels only. `mini_medical_pixel`: outlined lesions, no normal test
image. Both are drawings, made without scans, photographs or patients. The look and visibility of lesions
follow real ones, not the result of any detector. No category is among the mini model's training categories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from data_scripts.mini_photographs import colon, polyp, skin
from data_scripts.mini_scans import chest_scan, head_scan, thyroid
from data_scripts.render import Pair
from data_scripts.render.scene import generator

R = np.random.Generator


@dataclass(frozen=True)
class View:
    """One category. `draw(r, (H, W))` returns normal and anomalous picture, (H, W) or (H, W, 3) in [0, 1],
    and the lesion (H, W) bool; the two differ by the lesion alone."""

    draw: Callable[[R, tuple[int, int]], tuple[np.ndarray, np.ndarray, np.ndarray]]
    kind: str  # what the lesion is called
    size: tuple[int, int] = (144, 144)  # (H, W)
    blur: tuple[float, float] = (0.3, 0.7)  # pixels
    grain: tuple[float, float] = (1.0, 3.0)  # standard deviation in grey levels
    n_train: int = 12

    @property
    def name(self) -> str:
        return self.draw.__name__


VIEWS = {
    "mini_medical_image": (
        View(head_scan, "lesion", grain=(2.0, 5.0)),
        View(chest_scan, "opacity", grain=(2.0, 4.0)),
    ),
    "mini_medical_pixel": (
        View(colon, "polyp", n_train=40),  # with its normal images it serves as training data
        View(polyp, "polyp", blur=(0.4, 0.9), grain=(2.0, 4.5)),
        View(skin, "mole"),
        View(thyroid, "nodule", size=(128, 176), grain=(0.5, 1.5)),
    ),
}
WITHOUT_MASKS, WITHOUT_NORMAL = ("mini_medical_image",), ("mini_medical_pixel",)
"""As in the published sets: image labels only, and outlined lesions without any normal test image."""


def render_view(view: View, seed: int) -> Pair:
    """One pair, deterministic in (view, seed); drawn at twice the size and reduced. Pictures are (H, W) where
    the category is grey."""
    r = generator(view.name, seed)
    blur, spread = r.uniform(*view.blur), r.uniform(*view.grain)
    colour = r.normal(0, 0.3 * spread, (*view.size, 3))
    grain = r.normal(0, spread, view.size)
    normal, anomalous, lesion = view.draw(r, (2 * view.size[0], 2 * view.size[1]))
    if normal.ndim == 3:
        grain = grain[..., None] + colour
    mask = np.asarray(Image.fromarray((lesion * 255).astype(np.uint8)).reduce(2)) > 127
    return Pair(
        _finish(normal, blur, grain),
        _finish(anomalous, blur, grain),
        mask,
        {"category": view.name, "kind": view.kind},
    )


def _finish(picture: np.ndarray, blur: float, grain: np.ndarray) -> np.ndarray:
    image = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)).reduce(2)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    return np.clip(blurred + grain, 0, 255).astype(np.uint8)
