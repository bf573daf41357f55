from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import pixel_auroc
from PIL import Image
from scipy.ndimage import gaussian_filter

from zsad_core import image_features
from zsad_core.image_features import Extractor, TileFeatures, compute_features
from zsad_core.maps import image_maps, scaled_size
from zsad_core.methods import Output
from zsad_core.metrics import aupro, f1_max
from zsad_core.views import boxes_of
from zsad_core.windows import zero_shot_map
from zsad_papers.common.experiment import measure
from zsad_papers.winclip.experiments import zero_shot_variants

GRID = (3, 3)


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


def tiled(width, height, boxes):
    owner = np.zeros(len(boxes), int)
    return TileFeatures(pd.DataFrame(index=[0]), np.array([[height, width]]), owner, np.array(boxes), {})


def test_overlapping_tiles_are_averaged():
    maps = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 5, 5)
    row = [1, 1, 2, 2, 3, 3]
    (wide,) = image_maps(tiled(6, 4, boxes_of(6, 4, "tiles")), maps)
    np.testing.assert_allclose(wide, [row] * 4)
    (tall,) = image_maps(tiled(4, 6, boxes_of(4, 6, "tiles")), maps)
    np.testing.assert_allclose(tall, np.transpose([row] * 4))
    (cut,) = image_maps(tiled(6, 4, [(1, 0, 5, 4)]), maps[:1])
    np.testing.assert_allclose(cut, [[np.nan, 1, 1, 1, 1, np.nan]] * 4)  # the ends are not known
    grid = torch.arange(4.0).reshape(1, 1, 2, 2)
    (smooth,) = image_maps(tiled(8, 6, [(0, 0, 8, 6)]), grid[0], sigma=1.5)
    expected = gaussian_filter(F.interpolate(grid, (6, 8), mode="bilinear")[0, 0], 1.5)
    np.testing.assert_allclose(smooth, expected)


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


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS = draw(5, 16, seed=1).numpy(), draw(3, 16, seed=2).numpy()


def features(n, seed=0):
    arrays = {"image": draw(n, 16, seed=seed), "layer/2": draw(n, 9, 32, seed=seed + 1)}
    arrays |= {"windows/2": draw(n, 4, 16, seed=seed + 2), "windows/3": draw(n, 1, 16, seed=seed + 3)}
    meta = pd.DataFrame({"image": [f"{i}.png" for i in range(n)]})
    places = np.full((n, 2), 24), np.arange(n), np.tile([0, 0, 24, 24], (n, 1))
    return TileFeatures(meta, *places, {name: values.numpy() for name, values in arrays.items()})


def test_ablations_of_table_8():
    found = features(2)
    image, windows = found.tensor("image"), found.windows()
    two, three = ({size: windows[size]} for size in (2, 3))

    def expected(image, windows, *averages):
        options = dict(zip(("aggregate", "across"), averages))
        return zero_shot_map(image, windows, GRID, *TEXTS, temperature=0.2, **options)

    outputs = zero_shot_variants(found, TEXTS, GRID, 0.2)
    assert all(output.scores is None for output in outputs.values())
    torch.testing.assert_close(
        {variant: output.maps for variant, output in outputs.items()},
        {
            "": expected(image, windows),
            "wo_image_scale": expected(None, windows),
            "wo_mid_scale": expected(image, two),
            "wo_small_scale": expected(image, three),
            "wo_harmonic": expected(image, windows, "arithmetic", "arithmetic"),
            "wo_harmonic_within": expected(image, windows, "arithmetic", "harmonic"),
            "wo_harmonic_across": expected(image, windows, "harmonic", "arithmetic"),
        },
    )
    assert len({output.maps.sum().item() for output in outputs.values()}) == 7
