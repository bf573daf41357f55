"""Maps of three methods beside each other, and images chosen by rule (Figures 4 and 7 of AnomalyCLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zsad_core import anomalyclip as ac
from zsad_core.cache import content_key
from zsad_core.dense import Extractor
from zsad_core.prompts import object_name
from zsad_core.vand import vand_detector, vand_extractor
from zsad_core.winclip import Detector
from zsad_core.winclip_figures import Example, example, one_map
from zsad_core.winclip_studies import Category

SCRATCHES, STAINS = ("scratch", "cut", "crack"), ("color", "colour", "stain", "spot", "contamination")
"""Words in the names of defects, for the two kinds of Figure 7."""


def prompted(c: Category, role: str) -> tuple[Extractor, Detector] | None:
    """AnomalyCLIP for one category of the dataset in a role; None without its auxiliary set."""
    prompts = ac.learned_prompts(c.settings, c.encoder, ac.auxiliary_role(role))
    if prompts is None:
        return None
    prompts.refuse_training_images(c.test)
    detect = ac.detector(prompts.texts(c.encoder)[0], c.encoder.grid, prompts.recipe.temperature)
    return ac.extractor_of(c.encoder, prompts.recipe), detect


def compared(c: Category, windows: Category, role: str, image: int) -> Example:
    """Test image number `image` with the maps of WinCLIP, VAND and AnomalyCLIP, as far as there are any.

    c: a category seen by AnomalyCLIP's encoder. windows: the same one seen by WinCLIP's.
    """
    c, found = replace(c, whole="squash"), example(windows, image)
    maps = dict(found.maps)
    adapters = ac.learned_adapters(c.settings, c.encoder, ac.auxiliary_role(role))
    if adapters is not None:
        adapters.refuse_training_images(c.test)
        detect = vand_detector(c.encoder, adapters, c.name, c.settings.cache_dir)
        maps["VAND"] = one_map(c, vand_extractor(c.encoder), detect, image)
    return replace(found, maps=maps | dict(ours(c, role, image).maps))


def ours(c: Category, role: str, image: int) -> Example:
    """Test image number `image` with the map of AnomalyCLIP; without a map if there is no auxiliary set."""
    c, found = replace(c, whole="squash"), prompted(c, role)
    picture, mask = np.asarray(c.test.image(image)), c.test.mask(image)
    sigma = ac.smoothing(mask.shape)
    maps = {} if found is None else {"AnomalyCLIP": one_map(c, *found, image, sigma=sigma)}
    label = f"{object_name(c.name)}\n{object_name(c.test.meta['defect'].iloc[image])}"
    return Example(label, picture, mask, picture, maps)


def within_images(c: Category, role: str) -> np.ndarray:
    """(n,) pixel AUROC of AnomalyCLIP's map in each test image alone; NaN where nothing is anomalous."""
    c, found = replace(c, whole="squash"), prompted(c, role)
    if found is None:
        return np.full(len(c.test), np.nan)
    prompts = ac.learned_prompts(c.settings, c.encoder, ac.auxiliary_role(role))
    key = content_key(**{name: value.flatten().tolist() for name, value in prompts.parameters.items()})
    size = c.encoder.image_size
    options = {"map_size": size, "sigma": ac.smoothing(size), "kinds": (), "each": ("",), "prompts": key}
    return c.measured("anomalyclip-each", lambda: found[1], found[0], **options)["/each"][:, 0]


def best_and_worst(
    found: Sequence[tuple[str, Category]], words: Sequence[str]
) -> list[tuple[str, Category, int]]:
    """The images with the highest and the lowest pixel AUROC among those whose defect's name has one of the
    words, as (role, category, image); empty without any. found: (role, category)."""
    ranked = []
    for role, c in found:
        named = c.test.meta["defect"].str.contains("|".join(words), case=False).to_numpy()
        values = within_images(c, role) if named.any() else np.full(len(c.test), np.nan)
        ranked += [(values[i], role, c, int(i)) for i in np.flatnonzero(named & ~np.isnan(values))]
    ranked.sort(key=lambda item: item[0])
    return [item[1:] for item in (ranked[-1:] + ranked[:1] if len(ranked) > 1 else ranked)]
