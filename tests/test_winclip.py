from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import pixel_auroc
from PIL import Image

from zsad_core import image_features
from zsad_core.image_features import Extractor, compute_features
from zsad_core.methods import Output
from zsad_core.metrics import aupro, f1_max
from zsad_core.pixel_metrics import image_maps, scaled_size
from zsad_papers.common.experiment import measure


def spot(width, height, x, y):
    """Noise with a bright square of 4 x 4 pixels around (x, y), and its mask."""
    pixels = np.random.default_rng(width * x + y).integers(0, 100, (height, width), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[y - 2 : y + 2, x - 2 : x + 2] = True
    pixels[mask] = 255
    return Image.fromarray(pixels).convert("RGB"), mask


SPOTS = [(24, 24, 5, 18), (48, 24, 40, 6), (24, 48, 6, 40), (30, 24, 25, 12)]  # width, height, x, y


@pytest.fixture
def parts_of(dataset_with, tmp_path):
    def make(images, extractor, **options):
        return compute_features(extractor, dataset_with(images), tmp_path / "cache", **options)

    return make


def shrunk(image):
    return torch.from_numpy(np.array(image.resize((24, 24), Image.Resampling.BOX)))


STUB = SimpleNamespace(image_size=(24, 24), transform=shrunk, device=torch.device("cpu"))
BRIGHTNESS = Extractor({"model": "stub"}, STUB, lambda x: {"grey": x[..., 0].float() / 256})


def detect_light(found):
    grey = found.tensor("grey")
    light, mean = Output(grey.amax((1, 2)), grey), Output(grey.mean((1, 2)))
    return {"light": light, "dark": Output(maps=-grey), "mean": mean}


@pytest.mark.parametrize("whole", ["tiles", "squash"])
def test_a_spot_lands_where_it_is(parts_of, whole):
    (part,) = parts_of([spot(*where) for where in SPOTS], BRIGHTNESS, whole=whole)
    found = part.load()
    assert len(found.owner) == (4 if whole == "squash" else 1 + 3 + 3 + 2)
    for map_size, scale in ((None, 1), (12, 0.5)):
        maps = image_maps(found, found.tensor("grey"), map_size)
        for (width, height, x, y), anomaly_map in zip(SPOTS, maps, strict=True):
            assert anomaly_map.shape == (height * scale, width * scale) and anomaly_map.dtype == np.float32
            rows, columns = np.nonzero(anomaly_map > 0.9 * anomaly_map.max())
            centre = (columns.mean() + 0.5) / scale, (rows.mean() + 0.5) / scale
            assert centre == pytest.approx((x, y), abs=1)


def test_the_ends_that_a_centre_crop_leaves_out_are_not_measured(parts_of):
    """The spot at the left is seen by neither map nor mask; its image stays anomalous."""
    images = [spot(24, 24, 9, 9)[0], spot(48, 24, 4, 12), spot(48, 24, 24, 12)]
    (part,) = parts_of(images, BRIGHTNESS, whole="center_crop")
    grey = part.load().tensor("grey")
    boxes = [slice(0, 24), slice(12, 36), slice(12, 36)]
    masks = [part.dataset.mask(i)[:, box] for i, box in enumerate(boxes)]
    maps = F.interpolate(grey[:, None], (24, 24), mode="bilinear")[:, 0].numpy()
    found = measure([part], detect_light)["light/pixel"]
    assert [mask.any() for mask in masks] == [False, False, True]
    np.testing.assert_allclose(found[:2], [pixel_auroc(masks, maps), aupro(masks, maps)], atol=1e-4)


@pytest.mark.filterwarnings("error")  # none about the empty masks of normal images
@pytest.mark.parametrize("map_size", [None, 12])
def test_metrics_are_those_of_all_maps_at_once(parts_of, monkeypatch, map_size):
    monkeypatch.setattr(image_features, "PART", 3)  # two parts
    normal = [spot(30, 24, 4, 4)[0], spot(24, 24, 9, 9)[0]]
    parts = parts_of([*normal, *(spot(*where) for where in SPOTS)], BRIGHTNESS)
    found = measure(parts, detect_light, map_size=map_size, each=("light",))
    maps, masks, scores = [], [], []
    for part in parts:
        loaded = part.load()
        maps += image_maps(loaded, loaded.tensor("grey"), map_size)
        scores += loaded.mean_of_tiles(loaded.tensor("grey").amax((1, 2))).tolist()
        for mask in map(Image.fromarray, map(part.dataset.mask, range(len(part.dataset)))):
            size = scaled_size(mask.height, mask.width, map_size)
            masks.append(np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)))
    np.testing.assert_allclose(found["light/scores"], scores)
    for name, sign in (("light", 1), ("dark", -1)):
        signed = [sign * anomaly_map for anomaly_map in maps]
        flat = (np.concatenate([x.ravel() for x in images]) for images in (masks, signed))
        expected = [pixel_auroc(masks, signed), aupro(masks, signed), f1_max(*flat)]
        np.testing.assert_allclose(found[f"{name}/pixel"][:3], expected, atol=1e-4)
    for mask, x, own in zip(masks, maps, found["light/each"], strict=True):
        nan = [np.nan, np.nan]
        within = [pixel_auroc([mask], [x]), f1_max(mask.ravel(), x.ravel())] if mask.any() else nan
        np.testing.assert_allclose(own[:3], [*within, x.max()])
