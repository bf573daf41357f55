"""The published architectures with random weights, on two images, through each paper's own path."""

import numpy as np
import pytest

from zsad_core import image_features, methods
from zsad_core.encoders import load_encoder
from zsad_core.image_features import clip_extractor, compute_features, random_word_embeddings
from zsad_core.methods import category_texts
from zsad_core.prompt_learning import train_prompts
from zsad_papers.rwda import experiments as rwda_experiments

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(toy_set):
    """A normal and an anomalous image of wood, the latter with its mask."""
    return toy_set(normal=1, anomalous=1).select(category="wood", split="test")


def test_anomalyclip_on_vit_l_14_at_518_pixels(pair, tmp_path):
    encoder = load_encoder("ViT-L-14-336-quickgelu", "random", device="cpu", image_size=518)
    assert (encoder.grid, encoder.dim, encoder.width) == ((37, 37), 768, 1024)
    learned = train_prompts(encoder, pair, epochs=1, cache_dir=tmp_path)
    config = learned.config
    assert (config.first, config.layers, config.design.depth) == (6, (24,), 9)
    assert len(learned.losses) == 1 and np.isfinite(learned.losses).all()
    (part,) = compute_features(methods.extractor_of(encoder, config), pair, tmp_path, whole="squash")
    found = methods.anomalyclip(part.load(), learned.texts(encoder)[0], encoder.grid, config.temperature)
    assert (found.scores.shape, found.maps.shape) == ((2,), (2, 37, 37))
    for values in found:
        assert ((values > 0) & (values < 1)).all() and values.unique().numel() > 1


def test_winclip_and_rwda_on_vit_b_16_plus(pair, tmp_path):
    encoder = load_encoder("ViT-B-16-plus-240", "random", device="cpu")
    assert (encoder.grid, encoder.dim, encoder.width) == ((15, 15), 640, 896)
    (part,) = compute_features(clip_extractor(encoder, layers=(12,)), pair, tmp_path)
    assert part.load().tensor("layer/12").shape == (2, 225, 896)
    texts = category_texts(encoder, "wood", tmp_path, "two_class")
    maps = methods.winclip(part.load(), texts, encoder.grid).maps
    assert maps.shape == (2, 15, 15) and maps.isfinite().all() and maps.unique().numel() > 2
    images = image_features.image_embeddings(encoder, pair, tmp_path)
    assert images.views.shape == (2, 6, 640)
    words = random_word_embeddings(encoder, tmp_path, 4)
    (fnn,) = rwda_experiments.train_runs(words, [0], 4, tmp_path, epochs=1, batch_size=4).values()
    scores = rwda_experiments.fnn_scores(images, fnn)
    assert scores.shape == (2,) and ((scores > 0) & (scores < 1)).all()
