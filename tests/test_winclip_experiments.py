"""WinCLIP's experiments against direct computations on a few images, and what their cache must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zsad_core import prompts
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import compute_features
from zsad_core.maps import image_maps
from zsad_core.metrics import aupr, auroc, f1_max
from zsad_core.prompts import compositional_ensemble, zero_shot_prompts
from zsad_core.views import boxes_of, inference_views
from zsad_core.windows import winclip_map
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.experiments import (
    few_shot,
    few_shot_baselines,
    other_localization,
    tiling,
    zero_shot,
    zero_shot_classification,
    zero_shot_detector,
)


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(reference_seeds=2)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict]], dict[tuple[str, str], np.ndarray]]:
    """kept(records): the values that records would summarise, by method and variant."""

    def record(
        category: Category, values: np.ndarray, task: str, method: str, variant: str = "", **_: int
    ) -> dict:
        return {"names": (method, variant), "values": values}

    monkeypatch.setattr(Category, "record", record)
    return lambda records: {record["names"]: record["values"] for record in records}


def images_of(category: Category) -> list[Image.Image]:
    return [category.test.image(i) for i in range(len(category.test))]


def pixels_of(category: Category) -> Tensor:
    return torch.stack([category.encoder.preprocess(image) for image in images_of(category)])


def side(encoder: ClipEncoder, sentences: list[str]) -> Tensor:
    return F.normalize(encoder.embed_text(sentences).mean(0), dim=0)


def probability(views: Tensor, sides: tuple[Tensor, Tensor], temperature: float) -> np.ndarray:
    """(n,) from normalised views (n, v, d)."""
    cosines = torch.stack([views.double() @ text.double() for text in sides], -1)
    return (cosines / temperature).softmax(-1)[..., 1].mean(1).numpy()


# language


def test_language_of_squares_is_the_direct_computation(square: Category, kept: Callable) -> None:
    encoder, t = square.encoder, square.temperature
    model = encoder.image_size, encoder.transform
    assert t == encoder.temperature != 0.01
    views = torch.stack([encoder.embed_images(inference_views(image, *model)) for image in images_of(square)])
    whole = encoder.embed_images(pixels_of(square))[:, None]

    def prompts(kind, *defects):
        return zero_shot_prompts("bottle top", kind, defects)

    def sides(*names):
        return tuple(side(encoder, s) for s in prompts(*names))

    states = compositional_ensemble("bottle top", templates=("{}",))
    raw = [encoder.embed_text(s, normalize=False).mean(0) for s in prompts("prompt_ens")]
    words = "normal bottle top", "anomalous bottle top"
    pair, ensemble = tuple(side(encoder, [s]) for s in words), sides("prompt_ens")
    multi_crop = probability(views, ensemble, t)
    expected = {
        ("clip_ac", ""): probability(whole, pair, t),
        ("clip_ac_prompt_ens", ""): probability(whole, sides("imagenet"), t),
        ("winclip", "one_class"): (1 - whole @ pair[0])[:, 0] / 2,
        ("winclip", "two_class"): probability(whole, pair, t),
        ("winclip", "state_ens"): probability(whole, tuple(side(encoder, s) for s in states), t),
        ("winclip", "prompt_ens"): probability(whole, ensemble, t),
        ("winclip", "multi_crop"): multi_crop,
        ("winclip", ""): multi_crop,
        ("winclip", "specific_states"): probability(
            views, sides("specific_states", "hole", "spot", "stain"), t
        ),
        ("winclip", "whole=center_crop"): multi_crop,
        ("winclip", "whole=squash"): multi_crop,
        ("winclip", "normalize_sentences=0"): probability(
            views, tuple(F.normalize(x, dim=0) for x in raw), t
        ),
        ("winclip", "temperature=0.07"): probability(views, ensemble, 0.07),
        ("winclip", "temperature=0.01"): probability(views, ensemble, 0.01),
    }
    found = kept(zero_shot_classification(square))
    assert found.keys() == expected.keys()
    for names, values in expected.items():
        np.testing.assert_allclose(found[names], values, rtol=1e-4, atol=1e-7, err_msg=str(names))
    same = {name for name, values in found.items() if np.abs(values - multi_crop).max() < 1e-7}
    assert same == {("winclip", v) for v in ("", "multi_crop", "whole=center_crop", "whole=squash")}


def test_language_of_oblong_images_is_the_mean_over_their_tiles(oblong: Category, kept: Callable) -> None:
    encoder, t = oblong.encoder, oblong.temperature
    model = encoder.image_size, encoder.transform
    ensemble = tuple(side(encoder, s) for s in zero_shot_prompts("fuse"))

    def parts(whole: str) -> list[list[Image.Image]]:
        return [[image.crop(box) for box in boxes_of(*image.size, whole)] for image in images_of(oblong)]

    def views(pictures: list[list[Image.Image]], **options: bool) -> Tensor:
        """(n, views of all parts, d)"""
        own = [torch.cat([inference_views(part, *model, **options) for part in image]) for image in pictures]
        return torch.stack([encoder.embed_images(pixels) for pixels in own])

    found, tiles = kept(zero_shot_classification(oblong)), parts("tiles")
    assert {len(image) for image in tiles} == {2} and oblong.views().shape[1] == 12
    expected = {
        "": views(tiles),
        "prompt_ens": views(tiles, multi_crop=False),
        "whole=squash": views(parts("squash")),
        "whole=center_crop": views(parts("center_crop")),
    }
    for variant, embedded in expected.items():
        scores = probability(embedded, ensemble, t)
        np.testing.assert_allclose(found["winclip", variant], scores, rtol=1e-4, err_msg=variant)
    assert len({found["winclip", variant].tobytes() for variant in expected}) == 4


# records


def test_a_record_of_scores_and_one_of_pixels(square: Category) -> None:
    labels, scores = square.test.labels, np.random.default_rng(0).random(len(square.test))
    names = {"category": "bottle_top", "method": "spade"}
    metrics = {
        "auroc": auroc(labels, scores),
        "aupr": aupr(labels, scores),
        "f1max": f1_max(labels, scores),
    }
    expected = {**names, "variant": "", "shots": 2, "seed": 1, "task": "image", **metrics}
    assert square.record(scores, "image", "spade", shots=2, seed=1) == expected
    values, metrics = np.array([0.9, 0.8, 0.7]), {"auroc": 0.9, "pro": 0.8, "f1max": 0.7}
    expected = {**names, "variant": "x=1", "shots": 0, "seed": 0, "task": "pixel", **metrics}
    assert square.record(values, "pixel", "spade", "x=1") == expected


# maps


def test_winclip_map_is_the_map_of_the_tables(square: Category, tmp_path: Path) -> None:
    """From pixels, and by way of kept features, at the size of the encoder's input."""
    extractor = replace(square.clip, dtype=torch.float32)
    (part,) = compute_features(extractor, square.test, tmp_path)
    features, size = part.load(), square.encoder.image_size
    tables = [*image_maps(features, zero_shot_detector(square)(features)[""].maps, size)]
    options = {"scales": square.settings.scales, "temperature": square.temperature}
    found = winclip_map(square.encoder, pixels_of(square), *square.texts(), **options)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(tables)))


def test_edited_prompts_are_not_read_from_an_old_cache(
    square: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = (zero_shot, other_localization, tiling, lambda category: few_shot(category, [1]))
    before = [{names(r): r["auroc"] for r in run(square) if r["task"] == "pixel"} for run in experiments]
    first = pd.DataFrame(few_shot_baselines(square, [1], None, ["padim"]))
    monkeypatch.setattr(prompts, "WINCLIP_STATES", (["{} as new"], ["{} of another colour"]))
    for run, old in zip(experiments, before, strict=True):
        new = {names(r): r["auroc"] for r in run(square) if r["task"] == "pixel"}
        assert new.keys() == old.keys() and all(new[key] != old[key] for key in old)
    monkeypatch.setattr(Category, "references", lambda *_: pytest.fail("fitted again without language"))
    pd.testing.assert_frame_equal(pd.DataFrame(few_shot_baselines(square, [1], None, ["padim"])), first)


def names(record: dict) -> tuple:
    return tuple(record[column] for column in ("method", "variant", "shots", "seed"))


# single images


# draws of references


@pytest.fixture(scope="module")
def many(square: Category) -> Category:
    """A category that is said to have 50 training images."""
    train = square.train.meta.iloc[[0] * 50].assign(image=[f"{i}.png" for i in range(50)])
    others = train.assign(category="another", image=[f"another/{i}.png" for i in range(50)])
    meta = pd.concat([train, square.test.meta, others], ignore_index=True)
    dataset = replace(square.dataset, name="many", meta=meta)
    return replace(square, dataset=dataset, settings=replace(square.settings, reference_seeds=5, seed=3))


def test_draws_are_nested_distinct_and_differ(many: Category) -> None:
    draws = many.draws([1, 2, 4, 8])
    assert {*draws} == {(k, seed) for k in (1, 2, 4, 8) for seed in range(3, 8)}
    for (k, seed), images in draws.items():
        assert len(images) == len(set(images.tolist())) == k and images.min() >= 0 and images.max() < 50
        np.testing.assert_array_equal(images, draws[8, seed][:k])
    assert len({tuple(draws[8, seed]) for seed in range(3, 8)}) == 5
    other = replace(many, name="another").draws([8])
    assert all((other[8, seed] != draws[8, seed]).any() for seed in range(3, 8))
    np.testing.assert_array_equal(many.draws([4])[4, 5], draws[4, 5])  # whatever else is drawn


def test_references_are_the_images_that_were_drawn(square: Category) -> None:
    draws = {(1, 0): np.array([2]), (2, 1): np.array([2, 0])}
    (part,), numbers = square.references(draws, square.clip)
    names = square.train.meta["image"]
    for key, images in draws.items():
        assert part.meta["image"].iloc[numbers[key]].tolist() == names.iloc[images].tolist()
    assert len(part.meta) == 2  # the third image is not needed


# a dataset
