from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from data_scripts.prepare import prepared_folder
from zsad_core.auxiliary import Auxiliary
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import TileFeatures, compute_features
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import compositional_ensemble
from zsad_papers.baselines.vand import (
    STATES,
    TEMPLATES,
    Adapters,
    initial_adapters,
    patch_logits,
    train_adapters,
    vand_detector,
    vand_extractor,
    vand_maps,
    vand_texts,
)
from zsad_papers.common import experiment

LAYERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    """A CLIP of 3 x 3 patches and 4 blocks with random weights."""
    vision = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    path = tmp_path_factory.mktemp("configs") / "tiny.json"
    path.write_text(json.dumps(config))
    return load_encoder(path, "random", device="cpu")


def make(root: Path, *, masks: bool = True, first: int = 0) -> AnomalyDataset:
    """Two categories of noise; the anomalous images have a light square."""
    generator = np.random.default_rng(first)
    with prepared_folder(root) as out:
        for category, number in (("metal_nut", 3), ("carpet", 2)):
            for i in range(2 * number):
                pixels, mask = generator.integers(0, 99, (24, 24, 3), np.uint8), np.zeros((24, 24), bool)
                place = {"category": category, "split": "test", "name": f"{i}.png"}
                if i % 2:
                    mask[8 : 16 + i, 4:16] = True
                    pixels[mask] = 250
                    mask = mask if masks else None
                    out.add(Image.fromarray(pixels), defect="square", mask=mask, **place)
                else:
                    out.add(Image.fromarray(pixels), defect="good", **place)
    return load_dataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AnomalyDataset:
    return make(tmp_path_factory.mktemp("data") / "aux")


@pytest.fixture(scope="module")
def learned(encoder: ClipEncoder, dataset: AnomalyDataset) -> Adapters:
    return train_adapters(encoder, dataset, epochs=3, batch_size=4, progress=False)


def features(encoder: ClipEncoder, dataset: AnomalyDataset, folder: Path) -> list[TileFeatures]:
    """Of each category in turn."""
    return [
        part.load()
        for category in dataset.categories
        for part in compute_features(
            vand_extractor(encoder), dataset.select(category=category), folder, whole="squash"
        )
    ]


def plain_logits(tokens: Tensor, linear: torch.nn.Linear, texts: Tensor, scale: float) -> Tensor:
    """(n, 2, 3, 3): written out, both channels."""
    adapted = F.normalize(linear(tokens), dim=-1)
    return (scale * adapted @ texts.mT).permute(0, 2, 1).unflatten(2, (3, 3))


def plain_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Focal and dice of the anomalous channel for logits (n, 2, 3, 3) and masks (n, H, W)."""
    up = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=True)
    p = up.softmax(1)
    target = torch.stack([~masks, masks], 1).float().clamp(1e-5, 1 - 1e-5)
    p_t = (target * p).sum(1) + 1e-5
    focal = (-((1 - p_t) ** 2) * p_t.log()).mean()
    hit, both = (p[:, 1] * masks).sum((1, 2)), p[:, 1].sum((1, 2)) + masks.sum((1, 2))
    return focal + (1 - (2 * hit + 1) / (both + 1)).mean()


def linears(parameters: dict[str, Tensor]) -> dict[int, torch.nn.Linear]:
    found = {}
    for layer in LAYERS:
        found[layer] = torch.nn.Linear(32, 16)
        found[layer].load_state_dict({k: parameters[f"{k}/{layer}"] for k in ("weight", "bias")})
    return found


def test_sentences_of_the_ensemble() -> None:
    normal, anomalous = compositional_ensemble("metal nut", STATES, TEMPLATES)
    assert (len(set(normal)), len(set(anomalous))) == (245, 175)
    for sentence in (
        "a bad photo of a metal nut.",
        "a jpeg corrupted photo of the flawless metal nut.",
        "a photo of my metal nut without damage.",
        "a photo of the large unblemished metal nut.",
        "there is the perfect metal nut in the scene.",
    ):
        assert sentence in normal
    for sentence in (
        "a close-up photo of the broken metal nut.",
        "a photo of a small metal nut with flaw.",
        "this is one damaged metal nut in the scene.",
    ):
        assert sentence in anomalous
    for_imagenet = {template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES}
    assert len(for_imagenet & set(TEMPLATES)) == 30


def test_texts_are_means_of_unit_embeddings(encoder: ClipEncoder, tmp_path: Path) -> None:
    found = vand_texts(encoder, "metal_nut", tmp_path)
    for side, sentences in zip(found, compositional_ensemble("metal nut", STATES, TEMPLATES), strict=True):
        raw = encoder.embed_text(sentences, normalize=False)  # (k, d)
        mean = (raw / raw.norm(dim=1, keepdim=True)).mean(0)
        assert_close(side, mean / mean.norm())
    assert_close(vand_texts(encoder, "metal_nut", tmp_path), found)  # read


def test_features_are_blocks_of_the_ordinary_path(
    encoder: ClipEncoder, dataset: AnomalyDataset, tmp_path: Path
) -> None:
    part = dataset.select(category="metal_nut")
    (found,) = features(encoder, part, tmp_path)
    pixels = torch.stack([encoder.preprocess(part.image(i)) for i in range(len(part))])
    tokens: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: tokens.append(output[:, 1:]))
        for block in encoder.model.visual.transformer.resblocks
    ]
    heads = encoder.embed_images(pixels)
    for hook in hooks:
        hook.remove()
    assert_close(found.tensor("image"), heads, rtol=1e-3, atol=1e-3)  # stored in float16
    for layer in LAYERS:
        assert_close(found.tensor(f"layer/{layer}"), tokens[layer - 1], rtol=1e-3, atol=1e-3)


def test_new_layers_are_those_of_a_new_linear() -> None:
    new = initial_adapters(1024, 768, (6, 12, 18, 24), torch.Generator().manual_seed(0))
    assert sum(values.numel() for values in new.values()) == 4 * 787_200 == 3_148_800
    with torch.random.fork_rng():
        expected = torch.nn.Linear(1024, 768)
    for name, values in expected.named_parameters():
        for layer in (6, 24):
            own = new[f"{name}/{layer}"]
            assert own.shape == values.shape
            assert_close(own.abs().max(), values.detach().abs().max(), rtol=0.02, atol=0)
            assert_close(own.std(), values.detach().std(), rtol=0.05, atol=0)
    assert not torch.equal(new["weight/6"], new["weight/12"])


@pytest.mark.parametrize("size", [(24, 24), (11, 17)])
def test_maps_are_softmaxes_of_upsampled_logits(learned: Adapters, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = {layer: torch.randn(2, 9, 32, generator=generator) for layer in LAYERS}
    texts = F.normalize(torch.randn(2, 16, generator=generator), dim=-1)
    expected = torch.zeros(2, *size)
    for layer, linear in linears(learned.parameters).items():
        logits = plain_logits(tokens[layer], linear, texts, 30.0).detach()
        up = F.interpolate(logits, size, mode="bilinear", align_corners=True)
        expected += up.softmax(1)[:, 1] / 4
    assert_close(vand_maps(patch_logits(learned.parameters, tokens, texts, 30.0, (3, 3)), size), expected)


def test_one_step_is_that_of_the_written_out_loss(
    encoder: ClipEncoder, dataset: AnomalyDataset, tmp_path: Path
) -> None:
    """Loss, gradients by autograd and Adam, for a batch of two categories, each with its own texts."""
    drawn = train_adapters(encoder, dataset, epochs=0, cache_dir=tmp_path, progress=False)
    assert drawn.losses == () and drawn.recipe["scale"] == pytest.approx(1 / 0.07)
    modules = linears(drawn.parameters)
    loss = torch.zeros(())
    found = features(encoder, dataset, tmp_path)
    masks = torch.stack([torch.from_numpy(dataset.mask(i)) for i in range(len(dataset))])
    for layer, linear in modules.items():
        logits = [
            plain_logits(
                features.tensor(f"layer/{layer}"),
                linear,
                vand_texts(encoder, category, tmp_path),
                drawn.recipe["scale"],
            )
            for category, features in zip(dataset.categories, found, strict=True)
        ]
        loss = loss + plain_loss(torch.cat(logits), masks)
    values = [value for linear in modules.values() for value in linear.parameters()]
    optimizer = torch.optim.Adam(values, lr=1e-3, betas=(0.5, 0.999))
    loss.backward()
    optimizer.step()
    stepped = train_adapters(encoder, dataset, epochs=1, batch_size=10, cache_dir=tmp_path, progress=False)
    assert stepped.losses == pytest.approx([loss.item()], rel=1e-5)
    for layer, linear in modules.items():
        for name, value in linear.named_parameters():
            assert_close(stepped.parameters[f"{name}/{layer}"], value.detach(), rtol=0, atol=2e-5)


def test_equal_seeds_give_equal_layers(
    encoder: ClipEncoder, dataset: AnomalyDataset, learned: Adapters
) -> None:
    state = torch.random.get_rng_state()
    again = train_adapters(encoder, dataset, epochs=3, batch_size=4, progress=False)
    other = train_adapters(encoder, dataset, epochs=3, batch_size=4, seed=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.losses == learned.losses and again.losses[-1] < again.losses[0]
    for name, values in learned.parameters.items():
        assert torch.equal(again.parameters[name], values)
        assert not torch.equal(other.parameters[name], values)


def test_mosaics_take_the_place_of_some_images(
    encoder: ClipEncoder, dataset: AnomalyDataset, learned: Adapters, tmp_path: Path, monkeypatch
) -> None:
    rows: list[np.ndarray] = []
    batch = Auxiliary.batch
    monkeypatch.setattr(Auxiliary, "batch", lambda self, r, *a: (rows.append(r), batch(self, r, *a))[1])
    options = {"epochs": 40, "batch_size": 10, "cache_dir": tmp_path, "progress": False}
    found = train_adapters(encoder, dataset, mosaic=0.2, **options)
    seen = np.stack(rows)  # (epochs, 10): image i or its mosaic 10 + i, each once an epoch
    np.testing.assert_array_equal(np.sort(seen % 10), np.tile(np.arange(10), (40, 1)))
    assert 0.1 < (seen >= 10).mean() < 0.3
    assert len(found.trained_on) == 10  # mosaics are made of these
    with pytest.raises(ValueError, match="mosaic=1.5.*a probability"):
        train_adapters(encoder, dataset, mosaic=1.5, **options)


def test_detector_on_a_category(
    encoder: ClipEncoder, learned: Adapters, dataset: AnomalyDataset, tmp_path: Path
) -> None:
    category = dataset.select(category="metal_nut")
    parts = compute_features(vand_extractor(encoder), category, tmp_path, whole="squash")
    detect = vand_detector(encoder, learned, "metal_nut", tmp_path)
    features = parts[0].load()
    (output,) = detect(features).values()
    assert output.maps.shape == (6, 24, 24) and 0 <= output.maps.min() <= output.maps.max() <= 1
    texts = vand_texts(encoder, "metal_nut", tmp_path)
    expected = (learned.recipe["scale"] * F.normalize(features.tensor("image"), dim=-1) @ texts.T).softmax(
        -1
    )[:, 1]
    assert_close(output.scores.float(), expected)
    untrained = train_adapters(encoder, dataset, epochs=0, progress=False)
    before = experiment.measure(parts, vand_detector(encoder, untrained, "metal_nut", tmp_path))
    after = experiment.measure(parts, detect)  # has seen these images
    np.testing.assert_array_equal(after["/scores"], before["/scores"])  # nothing learned is in them
    assert after["/scores"].shape == (6,) and after["/pixel"][0] > max(0.75, before["/pixel"][0])


def test_saved_layers_come_back(learned: Adapters, tmp_path: Path) -> None:
    learned.save(tmp_path / "adapters.safetensors")
    found = Adapters.load(tmp_path / "adapters.safetensors")
    assert_close(found.parameters, learned.parameters, rtol=0, atol=0)
    assert torch.equal(found.trained_on, learned.trained_on)
    for name in ("recipe", "model_id", "weights_id", "losses"):
        assert getattr(found, name) == getattr(learned, name)
    assert found.layers == LAYERS
    with pytest.raises(ValueError, match="holds no learned prompts"):
        LearnedPrompts.load(tmp_path / "adapters.safetensors")


def test_what_is_refused(
    encoder: ClipEncoder, learned: Adapters, dataset: AnomalyDataset, tmp_path: Path
) -> None:
    other = load_encoder("zsad-mini", "random", device="cpu")
    with pytest.raises(ValueError, match="these adapters were learned with tiny.*zsad-mini"):
        vand_detector(other, learned, "carpet", tmp_path)
    with pytest.raises(ValueError, match="6 of 6 images of aux trained these adapters"):
        learned.refuse_training_images(dataset.select(category="metal_nut"))
    learned.refuse_training_images(make(tmp_path / "fresh", first=1))
    with pytest.raises(ValueError, match="no anomalous image with a mask"):
        train_adapters(encoder, make(tmp_path / "unmasked", masks=False), progress=False)
    for option in ({"lr": 0}, {"epochs": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="expected numbers above 0"):
            train_adapters(encoder, dataset, **option)
    with pytest.raises(FloatingPointError, match="lower lr"):
        train_adapters(encoder, dataset, epochs=3, lr=1e38, progress=False)
