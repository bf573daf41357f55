"""RD4AD's training and scores with a small student instead of anomalib's, an optional package."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import refused
from torch import nn
from torch.testing import assert_close

from zsad_core.image_features import compute_features
from zsad_papers.baselines import rd4ad
from zsad_papers.baselines.backbones import load_backbone
from zsad_papers.baselines.rd4ad import LAYERS, rd4ad_detector, rd4ad_extractor, train_rd4ad
from zsad_papers.common import experiment

SIZE = (32, 32)


class Network(nn.Module):
    """In training the teacher's and the student's values; else a score and a map, as anomalib's module."""

    def __init__(self):
        super().__init__()
        self.bottleneck, self.decoder = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False)
        for i, values in enumerate(self.parameters()):
            nn.init.constant_(values, 0.1 * (i + 1))

    def forward(self, pixels):
        student = self.decoder(self.bottleneck(pixels))
        if self.training:
            return pixels, student
        maps = (pixels - student).abs().mean(1, keepdim=True)
        return SimpleNamespace(pred_score=maps.amax((1, 2, 3)), anomaly_map=maps)


@pytest.fixture
def backbone(monkeypatch):
    monkeypatch.setattr(rd4ad, "BATCH_SIZE", 3)
    monkeypatch.setattr(rd4ad, "_network", lambda backbone: (Network(), nn.MSELoss()))
    return load_backbone("resnet18", "random", LAYERS, device="cpu", image_size=SIZE[0])


@pytest.fixture
def wood(toy_set):
    return toy_set(normal=5, anomalous=2).select("wood", "test")


def test_training_is_adam_on_the_loss_of_batches_in_a_seeded_order(wood, backbone):
    normal = wood.where(wood.labels == 0)
    found = train_rd4ad(normal, backbone, epochs=2)
    images = [normal.image(i).resize(SIZE, 3) for i in range(5)]
    pixels = torch.stack([backbone.transform(image) for image in images])
    own, order = Network(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(own.parameters(), 0.005, (0.5, 0.99))
    for _ in range(2):
        for rows in torch.randperm(5, generator=order).split(3):
            loss = ((pixels[rows] - own.decoder(own.bottleneck(pixels[rows]))) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_close(
        found.state_dict(), own.state_dict(), rtol=1e-3, atol=1e-3
    )  # pixels are kept in half precision
    output, maps = rd4ad_extractor(normal, backbone, 2).features(pixels), own.eval()(pixels).anomaly_map[:, 0]
    assert_close(output["maps"], maps.detach(), rtol=1e-2, atol=1e-2)
    assert_close(output["scores"], output["maps"].amax((1, 2)))
    features = rd4ad_extractor(normal, backbone, 0).features
    refused(r"images \(5, 3, 32, 16\): expected \(n, 3, 32, 32\)", features, pixels[..., :16])


def test_measured_like_any_detector(wood, backbone, tmp_path, monkeypatch):
    normal, trainings, train = wood.where(wood.labels == 0), [], train_rd4ad
    monkeypatch.setattr(rd4ad, "train_rd4ad", lambda *own: [trainings.append(1), train(*own)][1])
    monkeypatch.setattr("zsad_core.image_features.PART", 2)
    for _ in range(2):
        parts = compute_features(rd4ad_extractor(normal, backbone, 1), wood, tmp_path, whole="squash")
        found = experiment.measure(parts, rd4ad_detector)
    assert len(trainings) == 1 and found["/pixel"].shape == (4,)
    assert np.unique(found["/scores"]).size == 7
    others = [(wood, backbone, 1), (normal, replace(backbone, weights_id="others"), 1), (normal, backbone, 2)]
    keys = [rd4ad_extractor(*own).key for own in ((normal, backbone, 1), *others)]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


def test_what_is_refused(wood, backbone, monkeypatch):
    normal = wood.where(wood.labels == 0)
    refused("expected normal images", train_rd4ad, wood, backbone)
    other = replace(backbone, layers=("layer2", "layer4"))
    refused("with layers layer2, layer4: expected layer1, layer2, layer3", train_rd4ad, normal, other)
    monkeypatch.setattr(rd4ad, "LR", 1e38)
    refused("check the images", train_rd4ad, normal, backbone, epochs=9, error=FloatingPointError)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "anomalib.models.image.reverse_distillation.loss", None)
    refused(r"pip install '\.\[baselines\]'", train_rd4ad, normal, backbone, error=ImportError)
