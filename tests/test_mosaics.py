from __future__ import annotations

import numpy as np
from PIL import Image

from zsad_core.datasets import AnomalyDataset
from zsad_papers.baselines.vand import mosaics_of


def test_a_mosaic_has_four_images_of_its_category(dataset_with, tmp_path):
    """Plain grey images; every anomalous one is anomalous in its upper half."""
    upper = np.zeros((8, 6), np.uint8)
    upper[:4] = 1
    greys = [Image.new("RGB", (6, 8), (grey, grey, grey)) for grey in (10, 60, 110, 160, 210)]
    dataset: AnomalyDataset = dataset_with([*greys[:3], (greys[3], upper), (greys[4], upper)])
    mosaics = mosaics_of(dataset, (7, 8), tmp_path)
    assert len(mosaics) == 5 and mosaics.categories == ["screw"]
    for i in range(5):
        pixels, mask = np.asarray(mosaics.image(i))[..., 0], mosaics.mask(i)
        assert pixels.shape == (7, 8)
        quarters = [np.s_[:3, :4], np.s_[:3, 4:], np.s_[3:, :4], np.s_[3:, 4:]]
        parts = [np.unique(pixels[quarter]).tolist() for quarter in quarters]
        assert (
            all(len(part) == 1 for part in parts) and len({part[0] for part in parts}) == 4
        )  # all different
        for (part,), quarter in zip(parts, quarters, strict=True):
            found = mask[quarter]
            if part < 160:
                assert not found.any()
            else:
                assert found[0].all() and not found[-1].any()
        assert mosaics.labels[i] == mask.any()


def test_mosaics_are_drawn_once(dataset_with, tmp_path):
    dataset = dataset_with([Image.new("RGB", (4, 4), (grey, 0, 0)) for grey in range(0, 250, 10)])
    first = mosaics_of(dataset, (4, 4), tmp_path)
    content = {path: path.read_bytes() for path in first.root.rglob("*.png")}
    (first.root / "meta.csv").unlink()  # as after a kill
    again = mosaics_of(dataset, (4, 4), tmp_path)
    assert again.root == first.root
    assert content == {path: path.read_bytes() for path in again.root.rglob("*.png")}
    other = mosaics_of(dataset, (4, 4), tmp_path, seed=1)
    assert other.root != first.root and other.fingerprint != first.fingerprint
