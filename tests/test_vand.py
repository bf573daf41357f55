import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from PIL import Image
from torch.testing import assert_close

from data_scripts.prepare import prepared_folder
from zsad_core.auxiliary import Auxiliary
from zsad_core.datasets import load_dataset
from zsad_core.image_features import compute_features
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import compositional_ensemble
from zsad_papers.baselines import vand
from zsad_papers.baselines.vand import mosaics_of, train_adapters, vand_detector, vand_extractor, vand_texts
from zsad_papers.common import experiment

LAYERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def encoder(small_clip):
    return small_clip(text={"layers": 1})


def make(root, *, masks=True, first=0):
    """Two categories of noise; the anomalous images have a light square."""
    generator = np.random.default_rng(first)
    with prepared_folder(root) as out:
        for category, number in (("metal_nut", 3), ("carpet", 2)):
            for i in range(2 * number):
                pixels, mask = generator.integers(0, 99, (24, 24, 3), np.uint8), np.zeros((24, 24), bool)
                mask[8 : 16 + i, 4:16] = i % 2
                pixels[mask] = 250
                own = {"defect": "square", "mask": mask if masks else None} if i % 2 else {"defect": "good"}
                out.add(Image.fromarray(pixels), category=category, split="test", name=f"{i}.png", **own)
    return load_dataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "aux")


@pytest.fixture(scope="module")
def learned(encoder, dataset, tmp_path_factory):
    return train_adapters(encoder, dataset, tmp_path_factory.mktemp("cache"), epochs=8)


def plain_logits(tokens, linear, texts, scale):
    """(n, 2, 3, 3): written out, both channels."""
    adapted = F.normalize(linear(tokens), dim=-1)
    return (scale * adapted @ texts.mT).permute(0, 2, 1).unflatten(2, (3, 3))


def plain_loss(logits, masks):
    """Focal and dice of the anomalous channel for logits (n, 2, 3, 3) and masks (n, H, W)."""
    up = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=True)
    p = up.softmax(1)
    target = torch.stack([~masks, masks], 1).float().clamp(1e-5, 1 - 1e-5)
    p_t = (target * p).sum(1) + 1e-5
    focal = (-((1 - p_t) ** 2) * p_t.log()).mean()
    hit, both = (p[:, 1] * masks).sum((1, 2)), p[:, 1].sum((1, 2)) + masks.sum((1, 2))
    return focal + (1 - (2 * hit + 1) / (both + 1)).mean()


def linears(parameters):
    found = {}
    for layer in LAYERS:
        found[layer] = torch.nn.Linear(32, 16)
        found[layer].load_state_dict({k: parameters[f"{k}/{layer}"] for k in ("weight", "bias")})
    return found


def test_texts_are_means_of_unit_embeddings_of_the_ensemble(encoder, tmp_path):
    sides = compositional_ensemble("metal nut", vand.STATES, vand.TEMPLATES)
    assert [len(set(side)) for side in sides] == [245, 175]
    assert "a jpeg corrupted photo of the flawless metal nut." in sides[0]
    assert "this is one damaged metal nut in the scene." in sides[1]
    for side, sentences in zip(vand_texts(encoder, "metal_nut", tmp_path), sides, strict=True):
        mean = F.normalize(encoder.embed_text(sentences, normalize=False), dim=1).mean(0)
        assert_close(side, mean / mean.norm())


def test_maps_are_softmaxes_of_upsampled_logits(learned):
    size, generator = (11, 17), torch.Generator().manual_seed(1)
    tokens = {layer: torch.randn(2, 9, 32, generator=generator) for layer in LAYERS}
    texts = F.normalize(torch.randn(2, 16, generator=generator), dim=-1)
    expected = torch.zeros(2, *size)
    for layer, linear in linears(learned.parameters).items():
        logits = plain_logits(tokens[layer], linear, texts, 30.0).detach()
        up = F.interpolate(logits, size, mode="bilinear", align_corners=True)
        expected += up.softmax(1)[:, 1] / 4
    logits = vand.patch_logits(learned.parameters, tokens, texts, 30.0, (3, 3))
    assert_close(vand.vand_maps(logits, size), expected)


def test_one_step_is_that_of_the_written_out_loss(encoder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(vand, "BATCH_SIZE", 10)
    drawn = train_adapters(encoder, dataset, tmp_path, epochs=0)
    assert drawn.losses == () and drawn.recipe["scale"] == pytest.approx(1 / 0.07)
    modules = linears(drawn.parameters)
    loss, scale = torch.zeros(()), drawn.recipe["scale"]
    extractor, each = vand_extractor(encoder), map(dataset.select, dataset.categories)
    parts = [compute_features(extractor, own, tmp_path, whole="squash") for own in each]
    texts = [vand_texts(encoder, name, tmp_path) for name in dataset.categories]
    masks = torch.stack([torch.from_numpy(dataset.mask(i)) for i in range(len(dataset))])
    for layer, linear in modules.items():
        tokens = [part.load().tensor(f"layer/{layer}") for (part,) in parts]
        logits = [plain_logits(x, linear, own, scale) for x, own in zip(tokens, texts, strict=True)]
        loss = loss + plain_loss(torch.cat(logits), masks)
    values = [value for linear in modules.values() for value in linear.parameters()]
    optimizer = torch.optim.Adam(values, lr=1e-3, betas=(0.5, 0.999))
    loss.backward()
    optimizer.step()
    stepped = train_adapters(encoder, dataset, tmp_path, epochs=1)
    assert stepped.losses == pytest.approx([loss.item()], rel=1e-5)
    for layer, linear in modules.items():
        for name, value in linear.named_parameters():
            assert_close(stepped.parameters[f"{name}/{layer}"], value.detach(), rtol=0, atol=2e-5)


def test_detector_on_a_category(encoder, learned, dataset, tmp_path):
    category = dataset.select(category="metal_nut")
    parts = compute_features(vand_extractor(encoder), category, tmp_path, whole="squash")
    detect = vand_detector(encoder, learned, "metal_nut", tmp_path)
    features = parts[0].load()
    (output,) = detect(features).values()
    assert output.maps.shape == (6, 24, 24) and 0 <= output.maps.min() <= output.maps.max() <= 1
    texts = vand_texts(encoder, "metal_nut", tmp_path)
    logits = learned.recipe["scale"] * F.normalize(features.tensor("image"), dim=-1) @ texts.T
    assert_close(output.scores.float(), logits.softmax(-1)[:, 1])
    untrained = train_adapters(encoder, dataset, tmp_path, epochs=0)
    before = experiment.measure(parts, vand_detector(encoder, untrained, "metal_nut", tmp_path))
    after = experiment.measure(parts, detect)  # has seen these images
    np.testing.assert_array_equal(after["/scores"], before["/scores"])  # nothing learned is in them
    assert after["/scores"].shape == (6,) and after["/pixel"][0] > max(0.75, before["/pixel"][0])


def test_mosaics_seeds_and_the_disk(encoder, dataset, learned, tmp_path, monkeypatch):
    again, other = (train_adapters(encoder, dataset, tmp_path, epochs=8, seed=seed) for seed in (111, 1))
    assert again.losses == learned.losses and again.losses[-1] < again.losses[0]
    assert_close(again.parameters, learned.parameters, rtol=0, atol=0)
    assert not torch.equal(other.parameters["weight/1"], again.parameters["weight/1"])
    rows, batch = [], Auxiliary.batch
    first = mosaics_of(dataset, encoder.image_size, tmp_path / "again")
    content = {path: path.read_bytes() for path in first.root.rglob("*.png")}
    (first.root / "meta.csv").unlink()  # as after a kill
    assert mosaics_of(dataset, encoder.image_size, tmp_path / "again").root == first.root
    assert content == {path: path.read_bytes() for path in content}
    monkeypatch.setattr(Auxiliary, "batch", lambda self, r, *a: (rows.append(r), batch(self, r, *a))[1])
    monkeypatch.setattr(vand, "BATCH_SIZE", 10)
    found = train_adapters(encoder, dataset, tmp_path, epochs=40, mosaic=0.2)
    seen = np.stack(rows)  # (epochs, 10): image i or its mosaic 10 + i, each once an epoch
    np.testing.assert_array_equal(np.sort(seen % 10), np.tile(np.arange(10), (40, 1)))
    assert 0.1 < (seen >= 10).mean() < 0.3 and len(found.trained_on) == 10
    learned.save(tmp_path / "adapters.safetensors")
    found = vand.Adapters.load(tmp_path / "adapters.safetensors")
    assert_close(found.parameters, learned.parameters, rtol=0, atol=0)
    assert torch.equal(found.trained_on, learned.trained_on)
    for name in ("recipe", "model_id", "weights_id", "losses"):
        assert getattr(found, name) == getattr(learned, name)
    refused("no learned prompts", LearnedPrompts.load, tmp_path / "adapters.safetensors")


def test_what_is_refused(encoder, small_clip, learned, dataset, tmp_path, monkeypatch):
    other, seen = small_clip(seed=1), dataset.select(category="metal_nut")
    refused("these adapters were learned with small", vand_detector, other, learned, "carpet", tmp_path)
    refused("6 of 6 images of aux trained these adapters", learned.refuse_training_images, seen)
    learned.refuse_training_images(make(tmp_path / "fresh", first=1))
    unmasked = make(tmp_path / "unmasked", masks=False)
    refused("no anomalous image with a mask", train_adapters, encoder, unmasked, tmp_path, epochs=1)
    for wrong in ({"epochs": -1}, {"epochs": 1, "mosaic": 1.5}, {"epochs": 1, "mosaic": -0.1}):
        refused("expected 0 epochs .* a probability", train_adapters, encoder, dataset, tmp_path, **wrong)
    monkeypatch.setattr(vand, "LR", 1e38)
    refused("lower lr", train_adapters, encoder, dataset, tmp_path, error=FloatingPointError, epochs=3)


def test_a_mosaic_has_four_images_of_its_category(dataset_with, tmp_path):
    """Plain grey images; every anomalous one is anomalous in its upper half."""
    upper = np.zeros((8, 6), np.uint8)
    upper[:4] = 1
    greys = [Image.new("RGB", (6, 8), (grey, grey, grey)) for grey in (10, 60, 110, 160, 210)]
    dataset = dataset_with([*greys[:3], (greys[3], upper), (greys[4], upper)])
    mosaics = mosaics_of(dataset, (7, 8), tmp_path)
    assert len(mosaics) == 5 and mosaics.categories == ["screw"]
    for i in range(5):
        pixels, mask = np.asarray(mosaics.image(i))[..., 0], mosaics.mask(i)
        assert pixels.shape == (7, 8)
        quarters = [np.s_[:3, :4], np.s_[:3, 4:], np.s_[3:, :4], np.s_[3:, 4:]]
        parts = [np.unique(pixels[quarter]).tolist() for quarter in quarters]
        assert all(len(part) == 1 for part in parts) and len({part[0] for part in parts}) == 4
        for (part,), quarter in zip(parts, quarters, strict=True):
            assert not mask[quarter][-1].any() and mask[quarter][0].all() == (part >= 160)
            assert mask[quarter].any() == (part >= 160)
        assert mosaics.labels[i] == mask.any()
