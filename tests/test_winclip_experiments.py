from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from zsad_core import prompts
from zsad_core.datasets import load_dataset
from zsad_core.image_features import compute_features
from zsad_core.images import inference_views
from zsad_core.methods import clip
from zsad_core.pixel_metrics import image_maps
from zsad_core.prompts import compositional_ensemble, zero_shot_prompts
from zsad_core.windows import aggregate_windows, winclip_map
from zsad_papers.baselines.backbones import backbone_of
from zsad_papers.baselines.detectors import as_baselines_see, baseline_detector
from zsad_papers.common.experiment import Category, by_defect, hidden_layers
from zsad_papers.winclip import experiments
from zsad_papers.winclip.experiments import few_shot_arrays, zero_shot, zero_shot_detector

ALL = ("P", "P+Wm", "P+Wm+Ws")


@pytest.fixture(scope="module")
def settings(settings_of):
    return settings_of(reference_seeds=2, map_size=48)


@pytest.fixture
def kept(monkeypatch):
    """Records hold the values that they would summarise."""

    def record(self, values, task, method, variant="", **where):
        return {"task": task, "method": method, "variant": variant, **where, "values": values}

    monkeypatch.setattr(Category, "record", record)


def values_of(records):
    return {(record["method"], record["variant"]): record["values"] for record in records}


def images_of(category):
    return [category.test.image(i) for i in range(len(category.test))]


def pixels_of(category):
    return torch.stack([category.encoder.preprocess(image) for image in images_of(category)])


def side(encoder, sentences):
    return F.normalize(encoder.embed_text(sentences).mean(0), dim=0)


def probability(views, sides, temperature):
    """(n,) from normalised views (n, v, d)."""
    cosines = torch.stack([views.double() @ text.double() for text in sides], -1)
    return (cosines / temperature).softmax(-1)[..., 1].mean(1).numpy()


def test_language_of_squares_is_the_direct_computation(square, kept):
    encoder, t = square.encoder, square.temperature
    assert t == encoder.temperature != 0.01
    pictures = [inference_views(image, encoder.image_size) for image in images_of(square)]
    pixels = [torch.stack([*map(encoder.transform, views)]) for views in pictures]
    views = torch.stack([encoder.embed_images(views) for views in pixels])
    whole = encoder.embed_images(pixels_of(square))[:, None]

    def prompts(kind, *defects):
        return zero_shot_prompts("bottle top", kind, defects)

    def sides(*names):
        return tuple(side(encoder, s) for s in prompts(*names))

    states = compositional_ensemble("bottle top", templates=("{}",))
    raw = [F.normalize(encoder.embed_text(s, normalize=False).mean(0), dim=0) for s in prompts("prompt_ens")]
    specific = sides("specific_states", "hole", "spot", "stain")
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
        ("winclip", "specific_states"): probability(views, specific, t),
        ("winclip", "whole=center_crop"): multi_crop,
        ("winclip", "whole=squash"): multi_crop,
        ("winclip", "normalize_sentences=0"): probability(views, raw, t),
        ("winclip", "temperature=0.07"): probability(views, ensemble, 0.07),
        ("winclip", "temperature=0.01"): probability(views, ensemble, 0.01),
    }
    found = values_of(experiments.zero_shot_classification(square))
    assert found.keys() == expected.keys()
    for names, values in expected.items():
        np.testing.assert_allclose(found[names], values, rtol=1e-4, atol=1e-7, err_msg=str(names))
    same = {name for name, values in found.items() if np.abs(values - multi_crop).max() < 1e-7}
    assert same == {("winclip", v) for v in ("", "multi_crop", "whole=center_crop", "whole=squash")}


def test_without_crops_each_of_two_tiles_counts_once(square, kept, monkeypatch):
    views = np.random.default_rng(0).normal(size=(len(square.test), 12, square.encoder.dim))
    monkeypatch.setattr(Category, "views", lambda *_: views)
    expected = clip(views[:, [0, 6]], square.texts("two_class"), square.temperature).scores
    found = values_of(experiments.zero_shot_classification(square))
    np.testing.assert_allclose(found["winclip", "two_class"], expected)
    each = [experiments.one_class_scores(views[:, [i]], square.texts("two_class")[0]) for i in (0, 6)]
    np.testing.assert_allclose(found["winclip", "one_class"], sum(each) / 2)


TABLE_8 = {"": {}, "wo_image_scale": {"image_scale": False}, "wo_harmonic": {"aggregate": "arithmetic"}}
TABLE_8 |= {"wo_mid_scale": {"scales": (2,)}, "wo_small_scale": {"scales": (3,)}}
TABLE_8 |= {"wo_harmonic_within": {"aggregate": "arithmetic", "across": "harmonic"}}
TABLE_8 |= {"wo_harmonic_across": {"across": "arithmetic"}}


def test_winclip_map_is_the_map_of_the_tables_in_every_ablation(square, tmp_path):
    (part,) = compute_features(replace(square.clip, dtype=torch.float32), square.test, tmp_path)
    features, size, maps = part.load(), square.encoder.image_size, {}
    tables = zero_shot_detector(square)(features)
    assert tables.keys() == TABLE_8.keys() | {"patch_token"}
    for variant, options in TABLE_8.items():
        options = {"temperature": square.temperature} | options
        maps[variant] = winclip_map(square.encoder, pixels_of(square), *square.texts(), **options)
        expected = np.stack(list(image_maps(features, tables[variant].maps, size)))
        torch.testing.assert_close(maps[variant], torch.from_numpy(expected), msg=variant)
    assert len({values.sum().item() for values in maps.values()}) == 7


def test_edited_prompts_are_not_read_from_an_old_cache(square, monkeypatch):
    before = [record["auroc"] for record in zero_shot(square)]
    monkeypatch.setattr(prompts, "WINCLIP_STATES", (["{} as new"], ["{} of another colour"]))
    assert all(a != b for a, b in zip(before, (record["auroc"] for record in zero_shot(square)), strict=True))


@pytest.fixture(scope="module")
def many(square):
    """A category that is said to have 50 training images."""
    train = square.train.meta.iloc[[0] * 50].assign(image=[f"{i}.png" for i in range(50)])
    others = train.assign(category="another", image=[f"another/{i}.png" for i in range(50)])
    meta = pd.concat([train, square.test.meta, others], ignore_index=True)
    dataset = replace(square.dataset, name="many", meta=meta)
    return replace(square, dataset=dataset, settings=replace(square.settings, reference_seeds=5, seed=3))


def test_draws_are_nested_distinct_and_differ(many):
    draws = many.draws([1, 2, 4, 8])
    assert {*draws} == {(k, seed) for k in (1, 2, 4, 8) for seed in range(3, 8)}
    for (k, seed), images in draws.items():
        assert len(images) == len(set(images.tolist())) == k and images.min() >= 0 and images.max() < 50
        np.testing.assert_array_equal(images, draws[8, seed][:k])
    assert len({tuple(draws[8, seed]) for seed in range(3, 8)}) == 5
    other = replace(many, name="another").draws([8])
    assert all((other[8, seed] != draws[8, seed]).any() for seed in range(3, 8))
    np.testing.assert_array_equal(many.draws([4])[4, 5], draws[4, 5])  # whatever else is drawn


@pytest.mark.parametrize("layer_norm", [False, True])
def test_distances_to_references_by_hand(square, layer_norm):
    encoder, draws = square.encoder, square.draws([1, 2])

    def parts(images):
        pixels = torch.stack([encoder.preprocess(image) for image in images])
        embedded = encoder.embed_scales(pixels, (2, 3), layers=(6,))
        tokens, norm = embedded.layers[6], encoder.model.visual.ln_post
        if layer_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias)
        return F.normalize(tokens, dim=-1), embedded.windows

    def distance(query, memory):
        return (1 - torch.einsum("npd,md->npm", query, memory).amax(-1)) / 2

    found = few_shot_arrays(square, [1, 2], ALL, **({"layer_norm": True} if layer_norm else {}))
    tokens, windows = parts(images_of(square))
    for key in ((1, 1), (2, 0)):
        memory = parts([square.train.image(int(i)) for i in draws[key]])
        maps = {"P": distance(tokens, memory[0].flatten(0, 1)).unflatten(1, encoder.grid)}
        for size, values in windows.items():
            distances = distance(values, memory[1][size].flatten(0, 1))
            maps[f"W{size}"] = aggregate_windows(distances, encoder.grid, size)
        for variant, names in zip(ALL, (["P"], ["P", "W3"], ["P", "W3", "W2"]), strict=True):
            highest = sum(maps[name].double() for name in names).amax((1, 2)) / len(names)
            got = found[f"{variant}|{key[0]}|{key[1]}/scores"]
            np.testing.assert_allclose(got, highest, rtol=5e-3, atol=1e-5, err_msg=variant)


def test_winclip_plus_is_the_mean_of_both_scores(square, kept):
    """Equation 6, in the tables and where RWDA adds its own score."""
    language = values_of(experiments.zero_shot_classification(square))["winclip", ""]
    maxima = few_shot_arrays(square, [1, 2], ALL)
    own = experiments.few_shot_scores(square, maxima)
    sums = {tuple(draw.values()): scores["ascore0+max_map"] for draw, scores in own}
    few_shot = experiments.few_shot(square, [1, 2], ALL)
    records = [record for record in few_shot if record["variant"] == "score=ascore0+max_map"]
    assert len(records) == len(sums) == 4
    for record in records:
        k, seed = record["shots"], record["seed"]
        expected = (language + maxima[f"P+Wm+Ws|{k}|{seed}/scores"]) / 2
        np.testing.assert_allclose(record["values"], expected)
        np.testing.assert_allclose(sums[k, seed], expected)


def test_claims_30_and_39_are_about_some_kinds_of_defect_and_hidden_layers_are_the_papers(square, kept):
    names = {"hole": "flip", "spot": "bent_lead"}
    dataset = replace(square.dataset, meta=square.dataset.meta.replace({"defect": names}))
    kinds = square.test.meta["defect"]
    found = by_defect(replace(square, dataset=dataset), np.arange(len(kinds)), "winclip")
    parts = {"flip": ["hole"], "arrangement": ["hole", "spot"], "other": ["stain"]}
    expected = {f"defect={name}": np.flatnonzero(kinds.isin(["good", *own])) for name, own in parts.items()}
    assert {r["variant"]: r["values"].tolist() for r in found} == {k: v.tolist() for k, v in expected.items()}
    assert len(set(map(tuple, expected.values()))) == 3 and hidden_layers(12) == (6, 9)
    assert by_defect(square, np.arange(len(kinds)), "winclip") == []


def test_padim_compares_a_tile_with_tiles_of_its_place(settings, encoder):
    """With one reference, the distance of this image to itself is 0 everywhere."""
    dataset = load_dataset(Path(settings.data_dir) / "mini_visa")
    wide = Category(settings, encoder, dataset, "fuse")
    image = wide.draws([1])[1, 0][0]
    (part, *_) = wide.computed(wide.clip, wide.train)
    reference, query = part.load().only(image), wide.features(wide.clip, 0)
    assert len(query.boxes) > 1
    detect = baseline_detector(wide, [1], None, ["padim"])
    assert detect(reference)["padim|1|0"].maps.abs().max() < 1e-4 < detect(query)["padim|1|0"].maps.min()
    network = backbone_of(settings)
    assert as_baselines_see(wide, None)[0] is wide is as_baselines_see(wide, network, tiled=True)[0]
    assert as_baselines_see(wide, network)[0].whole == "center_crop"
