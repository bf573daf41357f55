from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from data_scripts.prepare import prepared_folder
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_core.image_features import compute_features
from zsad_papers.baselines import rd4ad
from zsad_papers.baselines.backbones import Backbone, load_backbone
from zsad_papers.baselines.rd4ad import LAYERS, Rd4ad, rd4ad_detector, rd4ad_extractor, train_rd4ad
from zsad_papers.common import experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def anomalib_is_there() -> None:
    pytest.importorskip(
        "anomalib.models.image.reverse_distillation",
        reason="RD4AD's networks are anomalib's: pip install -e '.[baselines]' brings it",
        exc_type=ImportError,
    )


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rd4ad, "BATCH_SIZE", 3)
        yield


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("resnet18", "random", LAYERS, device="cpu", image_size=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AnomalyDataset:
    """Stripes; the anomalous ones have a light square. Wider than high."""
    root = tmp_path_factory.mktemp("data") / "stripes"
    generator = np.random.default_rng(0)
    with prepared_folder(root) as out:
        for i in range(7):
            pixels = generator.integers(0, 40, (64, 96, 3), np.uint8)
            pixels[:, ::4] += 60
            place = {"category": "cloth", "split": "train" if i < 4 else "test", "name": f"{i}.png"}
            if i < 5:
                out.add(Image.fromarray(pixels), defect="good", **place)
            else:
                mask = np.zeros((64, 96), bool)
                mask[20:40, 30:60] = True
                pixels[mask] = 255
                out.add(Image.fromarray(pixels), defect="square", mask=mask, **place)
    return load_dataset(root)


@pytest.fixture(scope="module")
def normal(dataset: AnomalyDataset) -> AnomalyDataset:
    return dataset.select(split="train")


@pytest.fixture(scope="module")
def model(normal: AnomalyDataset, backbone: Backbone) -> Rd4ad:
    return train_rd4ad(normal, backbone, epochs=1)


def pixels_of(dataset: AnomalyDataset, backbone: Backbone) -> Tensor:
    images = (dataset.image(i).resize((64, 64), Image.Resampling.BICUBIC) for i in range(len(dataset)))
    return torch.stack([backbone.preprocess(image) for image in images])


def test_the_student_learns_and_the_teacher_stays(
    normal: AnomalyDataset, backbone: Backbone, model: Rd4ad
) -> None:
    state = torch.random.get_rng_state()
    drawn = train_rd4ad(normal, backbone, epochs=0)
    longer = train_rd4ad(normal, backbone, epochs=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawn.losses == () and longer.losses[:1] == model.losses and longer.losses[3] < longer.losses[0]
    given = backbone.model.state_dict()
    before, after = drawn.network.state_dict(), longer.network.state_dict()
    for name, values in after.items():
        if name.startswith("encoder."):
            assert torch.equal(values, given[name.removeprefix("encoder.feature_extractor.")]), name
    for part in ("decoder", "bottleneck"):
        assert any(not torch.equal(after[k], before[k]) for k in after if k.startswith(part))


def test_maps_are_sums_of_cosine_distances(dataset: AnomalyDataset, backbone: Backbone, model: Rd4ad) -> None:
    """Written out for one image, without the smoothing, which only moves what is there."""
    pixels = pixels_of(dataset.select(split="test"), backbone)
    found = model.predict(pixels)
    assert found.scores.shape == (3,) and found.maps.shape == (3, 64, 64)
    assert_close(found.scores, found.maps.amax((1, 2)))
    teacher = [maps.permute(0, 3, 1, 2) for maps in backbone.feature_maps(pixels).values()]
    with torch.no_grad():
        student = model.network.decoder(model.network.bottleneck(teacher))
    distances = [1 - F.cosine_similarity(a, b) for a, b in zip(teacher, student, strict=True)]
    expected = sum(
        F.interpolate(d[:, None], (64, 64), mode="bilinear", align_corners=True)[:, 0] for d in distances
    )
    assert_close(found.maps.mean((1, 2)), expected.mean((1, 2)), rtol=0.02, atol=0)
    assert found.maps.amax() < expected.amax()
    with pytest.raises(ValueError, match=r"expected \(n, 3, 64, 64\)"):
        model.predict(pixels[..., :32])


def test_measured_like_any_detector(
    dataset: AnomalyDataset,
    normal: AnomalyDataset,
    backbone: Backbone,
    model: Rd4ad,
    tmp_path: Path,
    monkeypatch,
) -> None:
    """One training for all parts, equal to a direct call, and none when all is on the disk."""
    test = dataset.select(split="test")
    trainings = []

    def train(*arguments) -> Rd4ad:
        trainings.append(1)
        return train_rd4ad(*arguments)

    monkeypatch.setattr(rd4ad, "train_rd4ad", train)
    monkeypatch.setattr("zsad_core.image_features.PART", 2)
    for _ in range(2):
        extractor = rd4ad_extractor(normal, backbone, epochs=1)
        parts = compute_features(extractor, test, tmp_path, whole="squash")
        found = experiment.measure(parts, rd4ad_detector)
    assert len(trainings) == 1
    expected = model.predict(pixels_of(test, backbone))
    np.testing.assert_allclose(found["/scores"], expected.scores.numpy(), rtol=1e-3)
    assert found["/pixel"].shape == (3,)
    keys = [rd4ad_extractor(normal, backbone, epochs).key for epochs in (1, 2)]
    keys.append(rd4ad_extractor(normal, replace(backbone, weights_id="others"), epochs=1).key)
    keys.append(rd4ad_extractor(test, backbone, epochs=1).key)
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


def test_what_is_refused(
    dataset: AnomalyDataset, normal: AnomalyDataset, backbone: Backbone, monkeypatch
) -> None:
    with pytest.raises(ValueError, match="expected normal images"):
        train_rd4ad(dataset, backbone)
    with pytest.raises(ValueError, match="expected layer1, layer2, layer3"):
        train_rd4ad(normal, replace(backbone, layers=("layer1",)))
    monkeypatch.setattr(rd4ad, "LR", 1e38)
    with pytest.raises(FloatingPointError, match="check the images"):
        train_rd4ad(normal, backbone, epochs=9)
    monkeypatch.setitem(sys.modules, "anomalib.models.image.reverse_distillation.loss", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[baselines\]'"):
        train_rd4ad(normal, backbone)
