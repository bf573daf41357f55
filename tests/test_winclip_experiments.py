"""WinCLIP's experiments against direct computations on a few images, and what their cache must notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from exact import pixel_auroc
from PIL import Image
from torch import Tensor

from zsad_core import prompts
from zsad_core.datasets import load_dataset
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import TileFeatures, compute_features, image_embeddings
from zsad_core.maps import image_maps
from zsad_core.methods import token_map
from zsad_core.metrics import aupr, auroc, f1_max
from zsad_core.prompts import compositional_ensemble, zero_shot_prompts
from zsad_core.views import boxes_of, inference_views
from zsad_core.windows import upsample, winclip_map, zero_shot_map
from zsad_papers.baselines.relevance import maskclip_tokens, trans_mm
from zsad_papers.baselines.tiling import tile_embeddings, tiling_map
from zsad_papers.common import experiment
from zsad_papers.common.experiment import Category, categories, hidden_layers, run_experiment
from zsad_papers.common.settings import Settings
from zsad_papers.rwda import experiments as rwda_experiments
from zsad_papers.winclip.experiments import (
    few_shot,
    few_shot_baselines,
    other_localization,
    tiling,
    within_images,
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


def renamed(category: Category, defect: str, other: str) -> Category:
    """The category with another name for one of its defects."""
    meta = category.dataset.meta.replace({"defect": {defect: other}})
    return replace(category, dataset=replace(category.dataset, meta=meta))


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


def test_views_that_rwda_has_embedded_are_not_embedded_again(
    square: Category, oblong: Category, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for category, whole in ((square, "tiles"), (oblong, "squash")):
        fresh = replace(category, settings=replace(category.settings, cache_dir=str(tmp_path)))
        dataset = category.dataset.select(category=category.name)
        theirs = image_embeddings(category.encoder, dataset, tmp_path).select(split="test")
        with monkeypatch.context() as patch:
            patch.setattr(ClipEncoder, "embed_images", lambda *_, **__: pytest.fail("embedded again"))
            np.testing.assert_array_equal(fresh.views(whole), theirs.views)


def test_one_class_scores_rise_with_the_distance_to_the_normal_text(square: Category, kept: Callable) -> None:
    distances = 1 - square.encoder.embed_images(pixels_of(square)) @ side(
        square.encoder, ["normal bottle top"]
    )
    scores = kept(zero_shot_classification(square))["winclip", "one_class"]
    assert scores.argsort().tolist() == distances.argsort().tolist()


def test_temperature_leaves_the_order_of_single_crops(square: Category) -> None:
    at = {
        t: pd.DataFrame(
            zero_shot_classification(replace(square, settings=replace(square.settings, temperature=t)))
        )
        for t in (0.01, 0.07)
    }
    single = [records.query("variant in ('two_class', 'state_ens', 'prompt_ens')") for records in at.values()]
    assert len(single[0]) == 3 and (single[0]["auroc"] < 1).all()
    pd.testing.assert_frame_equal(*single)
    own = pd.DataFrame(zero_shot_classification(square)).set_index(["method", "variant"])
    for t, records in at.items():
        records = records.set_index(["method", "variant"])
        pd.testing.assert_series_equal(
            own.loc["winclip", f"temperature={t}"], records.loc["winclip", ""], check_names=False
        )


def test_flipped_images_have_a_record_of_their_own(square: Category, kept: Callable) -> None:
    flip = renamed(square, "spot", "flip")
    scores = kept(zero_shot_classification(flip))
    defects = flip.test.meta["defect"]
    expected = scores["winclip", ""][defects.isin(["good", "flip"]).to_numpy()]
    np.testing.assert_array_equal(scores["winclip", "defect=flip"], expected)
    assert len(expected) == 6 and ("winclip", "defect=flip") not in kept(zero_shot_classification(square))


def test_the_record_of_flipped_images_counts_no_other_defect(square: Category) -> None:
    flip = renamed(square, "spot", "flip")
    scores = np.where(flip.test.meta["defect"] == "flip", 3.0, np.where(flip.test.labels == 1, 0.0, 1.0))
    (record,) = experiment.flipped(flip, scores, "winclip_plus", shots=2, seed=5)
    names = {"category": "bottle_top", "method": "winclip_plus", "variant": "defect=flip"}
    names |= {"shots": 2, "seed": 5, "task": "image"}
    assert record == {**names, "auroc": 1.0, "aupr": 1.0, "f1max": 1.0}
    assert flip.record(scores, "image", "winclip_plus")["auroc"] < 1


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


def masks_of(category: Category) -> list[np.ndarray]:
    return [category.test.mask(i) for i in range(len(category.test))]


def at_mask_size(category: Category, maps: Tensor) -> np.ndarray:
    (shape,) = {mask.shape for mask in masks_of(category)}
    return upsample(maps, shape).numpy()


def by_variant(records: list[dict]) -> dict[str, dict]:
    found = {record["variant"]: record for record in records}
    assert len(found) == len(records) and {record["task"] for record in records} == {"pixel"}
    return found


def test_zero_shot_maps_of_squares(square: Category) -> None:
    found, encoder = by_variant(zero_shot(square)), square.encoder
    names = ["wo_image_scale", "wo_mid_scale", "wo_small_scale", "wo_harmonic", "patch_token"]
    assert {*found} == {"", *names, "wo_harmonic_within", "wo_harmonic_across"}
    texts = [side(encoder, s) for s in zero_shot_prompts("bottle top")]
    options = {"normal": texts[0], "anomalous": texts[1], "temperature": square.temperature}
    embedded = encoder.embed_scales(pixels_of(square), (2, 3), layers=(square.encoder.depth,))
    maps = zero_shot_map(embedded.image, embedded.windows, encoder.grid, **options)
    tokens = encoder.project_tokens(embedded.layers[6])
    patch_token = token_map(tokens, encoder.grid, texts, square.temperature)
    masks = masks_of(square)
    for variant, values in (("", maps), ("patch_token", patch_token)):
        expected = pixel_auroc(masks, at_mask_size(square, values))
        assert found[variant]["auroc"] == pytest.approx(expected, abs=2e-3)
    assert len({record["auroc"] for record in found.values()}) == len(found)
    assert {(r["method"], r["shots"], r["seed"]) for r in found.values()} == {("winclip", 0, 0)}


def test_winclip_map_is_the_map_of_the_tables(square: Category, tmp_path: Path) -> None:
    """From pixels, and by way of kept features, at the size of the encoder's input."""
    extractor = replace(square.clip, dtype=torch.float32)
    (part,) = compute_features(extractor, square.test, tmp_path)
    features, size = part.load(), square.encoder.image_size
    tables = [*image_maps(features, zero_shot_detector(square)(features)[""].maps, size)]
    options = {"scales": square.settings.scales, "temperature": square.temperature}
    found = winclip_map(square.encoder, pixels_of(square), *square.texts(), **options)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(tables)))


def test_generic_maps(square: Category) -> None:
    encoder = square.encoder
    records = other_localization(square)
    found = {(record["method"], record["variant"]): record["auroc"] for record in records}
    texts = [side(encoder, s) for s in zero_shot_prompts("bottle top")]
    pixels, t = pixels_of(square), square.temperature

    def token(**o: bool) -> Tensor:
        return token_map(maskclip_tokens(encoder.model.visual, pixels, **o), encoder.grid, texts, t)

    means = torch.stack([encoder.embed_text(s).mean(0) for s in zero_shot_prompts("bottle top")])

    def relevance(target):
        return trans_mm(encoder.model, pixels, means, target=target)

    expected = {
        ("maskclip", ""): token(),
        ("maskclip", "residual_and_mlp=1"): token(residual_and_mlp=True),
        ("trans_mm", ""): relevance("logit"),
        ("trans_mm", "target=difference"): relevance("difference"),
    }
    assert found.keys() == expected.keys() and len(records) == 4
    for names, maps in expected.items():
        value = pixel_auroc(masks_of(square), at_mask_size(square, maps))
        assert found[names] == pytest.approx(value, abs=2e-3), names
    assert len(set(found.values())) == 4


def test_tiling_of_squares(square: Category) -> None:
    encoder, pixels, t = square.encoder, pixels_of(square), square.temperature
    texts = tuple(side(encoder, s) for s in zero_shot_prompts("bottle top"))

    def score(x):
        return torch.from_numpy(probability(x.flatten(0, -2)[:, None], texts, t))

    tiles = {size: tile_embeddings(encoder, pixels, size) for size in (2, 3)}
    scores = {size: score(x).reshape(x.shape[:2]) for size, x in tiles.items()}
    maps = tiling_map(scores, score(encoder.embed_images(pixels)), encoder.grid)
    (record,) = tiling(square)
    assert (record["method"], record["variant"], record["task"]) == ("winclip", "image_tiling", "pixel")
    expected = pixel_auroc(masks_of(square), at_mask_size(square, maps))
    assert record["auroc"] == pytest.approx(expected, abs=2e-3)


def test_a_second_call_reads_what_the_first_one_has_measured(
    square: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = (zero_shot_classification, zero_shot, other_localization, tiling)
    first = [run(square) for run in experiments]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder ran again")

    for name in ("embed_scales", "embed_images", "embed_text", "project_tokens"):
        monkeypatch.setattr(ClipEncoder, name, refuse)
    again = replace(square)
    assert [run(again) for run in experiments] == first
    with pytest.raises(AssertionError, match="ran again"):
        zero_shot(replace(square, whole="squash"))


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


def test_a_resnet_has_no_patch_tokens(square: Category, tmp_path: Path) -> None:
    vision = {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "patch_size": None}
    text = {"width": 32, "heads": 2, "layers": 1}
    (tmp_path / "rn.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    resnet = replace(square, encoder=load_encoder(tmp_path / "rn.json", "random", device="cpu"))
    assert resnet.encoder.depth == 0 and resnet.clip.key["layers"] == []
    assert len(by_variant(zero_shot(resnet))) == 7
    assert len(zero_shot_classification(resnet)) == 14


def test_blocks_that_stand_for_a_resnets_stages() -> None:
    assert hidden_layers(12) == (6, 9)
    assert hidden_layers(6) == (3, 4)


# single images


def test_within_images(square: Category) -> None:
    encoder = square.encoder
    texts = [side(encoder, s) for s in zero_shot_prompts("bottle top")]
    embedded = encoder.embed_scales(pixels_of(square), (2, 3))
    maps = zero_shot_map(
        embedded.image, embedded.windows, encoder.grid, *texts, temperature=square.temperature
    )
    found = within_images(square)
    assert found["label"].tolist() == square.test.labels.tolist()
    normal = found[found["label"] == 0]
    assert normal[["auroc", "f1max"]].isna().all(axis=None) and (normal["area"] == 0).all()
    for i, (mask, anomaly_map) in enumerate(zip(masks_of(square), at_mask_size(square, maps), strict=True)):
        row = found.loc[i]
        assert row["area"] == mask.sum() / mask.size
        assert row["maximum"] == pytest.approx(anomaly_map.max(), abs=1e-3)
        if mask.any():
            assert row["auroc"] == pytest.approx(auroc(mask.ravel(), anomaly_map.ravel()), abs=2e-3)
            assert row["f1max"] == pytest.approx(f1_max(mask.ravel(), anomaly_map.ravel()), abs=5e-3)


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


def test_draws_are_those_of_the_other_paper(many: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def spy(n: int, shots: int, seed: int) -> np.ndarray:
        drawn.append((n, shots, seed))
        return np.arange(shots)

    monkeypatch.setattr(rwda_experiments, "sample_references", spy)
    monkeypatch.setattr(experiment, "sample_references", spy)
    meta = many.dataset.meta
    test = pd.concat(
        [meta[meta["split"] == "test"].assign(category=name) for name in many.dataset.categories]
    )

    def embed(part: pd.DataFrame) -> TileFeatures:
        views = {"views": np.ones((len(part), 6, 4), np.float32)}
        return TileFeatures(part, *[np.arange(len(part))] * 3, views)

    rwda_experiments.similarity_scores(embed(test), embed(meta[meta["split"] == "train"]), 2, seed=3)
    theirs = [*drawn]
    drawn.clear()
    for name in many.dataset.categories:
        replace(many, name=name, settings=replace(many.settings, reference_seeds=1)).draws([2])
    assert drawn == theirs and len(theirs) == 2


def test_more_shots_than_normal_images(square: Category) -> None:
    assert len(square.train) == 3
    with pytest.raises(ValueError, match="'bottle_top': 3 normal training images, expected at least 4"):
        square.draws([1, 4])


def test_references_are_the_images_that_were_drawn(square: Category) -> None:
    draws = {(1, 0): np.array([2]), (2, 1): np.array([2, 0])}
    (part,), numbers = square.references(draws, square.clip)
    names = square.train.meta["image"]
    for key, images in draws.items():
        assert part.meta["image"].iloc[numbers[key]].tolist() == names.iloc[images].tolist()
    assert len(part.meta) == 2  # the third image is not needed


# a dataset


def test_categories_and_study_of_a_role(settings: Settings, encoder: ClipEncoder) -> None:
    named = categories(replace(settings, limit_images=1), encoder, "visa")
    assert [category.name for category in named] == load_dataset(
        Path(settings.data_dir) / "mini_visa"
    ).categories
    assert len(named[0].test) == 2 and len(named[0].train) == 3
    found = run_experiment(settings, encoder, "visa", _count, "option")
    assert (
        found["category"].tolist() == [category.name for category in named]
        and (found["option"] == "option").all()
    )


def _count(category: Category, option: str) -> list[dict]:
    return [{"category": category.name, "option": option}]


def test_without_a_dataset_there_are_no_records(settings: Settings, encoder: ClipEncoder) -> None:
    without = replace(settings, datasets={**settings.datasets, "visa": None})
    assert categories(without, encoder, "visa") == []
    assert run_experiment(without, encoder, "visa", _count, "option").empty
