"""WinCLIP+ and the few-shot baselines on a few images, against direct computations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from zsad_core import methods
from zsad_core.datasets import AnomalyDataset
from zsad_core.image_features import compute_features
from zsad_core.methods import Output
from zsad_core.metrics import auroc
from zsad_core.windows import zero_shot_map
from zsad_papers.baselines import few_shot as few_shot_module
from zsad_papers.baselines.backbones import Backbone, backbone_extractor
from zsad_papers.baselines.detectors import baseline_detector
from zsad_papers.common.experiment import Category
from zsad_papers.common.results import FULL_SHOT
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.experiments import (
    few_shot,
    few_shot_arrays,
    few_shot_baselines,
    few_shot_detector,
    few_shot_scores,
    full_shot,
    open_choices,
    zero_shot,
    zero_shot_classification,
)

ALL = ("P", "P+Wm", "P+Wm+Ws")


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(reference_seeds=2, map_size=48)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records hold the values that they would summarise."""

    def record(
        category: Category, values: np.ndarray, task: str, method: str, variant: str = "", **where: int
    ) -> dict:
        return {"task": task, "method": method, "variant": variant, **where, "values": values}

    monkeypatch.setattr(Category, "record", record)


def with_meta(category: Category, meta: pd.DataFrame) -> Category:
    dataset = replace(category.dataset, meta=meta.reset_index(drop=True))
    return replace(category, dataset=dataset)


# WinCLIP+


@pytest.mark.parametrize("name", ["square", "oblong"])
def test_scores_are_those_of_equation_6(name: str, request: pytest.FixtureRequest, kept: None) -> None:
    category = request.getfixturevalue(name)
    frame = pd.DataFrame(few_shot(category, [1, 2], ALL)).query("task == 'image'")
    ascore0 = {
        r["variant"]: r["values"] for r in zero_shot_classification(category) if r["method"] == "winclip"
    }[""]
    scores = few_shot_scores(category, [1, 2], ALL)
    assert {*scores} == {(k, seed) for k in (1, 2) for seed in (0, 1)}
    for key, own in frame.groupby(["shots", "seed"]):
        values = own.set_index("variant")["values"]
        np.testing.assert_array_equal(values["score=ascore0"], ascore0)
        both = (values["score=max_map"] + ascore0) / 2
        np.testing.assert_allclose(values["score=ascore0+max_map"], both, rtol=1e-12)
        np.testing.assert_array_equal(scores[key], values["score=ascore0+max_map"])
    highest = [v.tobytes() for v in frame.loc[frame["variant"] == "score=max_map", "values"]]
    assert len(set(highest)) > 2  # other shots, other distances


@pytest.mark.parametrize("aggregate", ["harmonic", "arithmetic"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_distances_to_references_by_hand(square: Category, aggregate: str, layer_norm: bool) -> None:
    encoder, draws = square.encoder, square.draws([1, 2])

    def parts(images: list) -> tuple[Tensor, dict[int, Tensor]]:
        embedded = encoder.embed_scales(
            torch.stack([encoder.preprocess(i) for i in images]), (2, 3), layers=(6,)
        )
        tokens, norm = embedded.layers[6], encoder.model.visual.ln_post
        if layer_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias)
        return F.normalize(tokens, dim=-1), embedded.windows

    def distance(query: Tensor, memory: Tensor) -> Tensor:
        return (1 - torch.einsum("npd,md->npm", query, memory).amax(-1)) / 2

    options = {"aggregate": aggregate, "layer_norm": layer_norm}
    found = few_shot_arrays(square, [1, 2], ALL, **options)
    tokens, windows = parts([square.test.image(i) for i in range(len(square.test))])
    for key in ((1, 1), (2, 0)):
        memory = parts([square.train.image(int(i)) for i in draws[key]])
        maps = {"P": distance(tokens, memory[0].flatten(0, 1)).unflatten(1, encoder.grid)}
        for size, values in windows.items():
            distances = distance(values, memory[1][size].flatten(0, 1))
            maps[f"W{size}"] = by_hand(distances, encoder.grid, size, aggregate)
        for variant, names in zip(ALL, (["P"], ["P", "W3"], ["P", "W3", "W2"]), strict=True):
            highest = sum(maps[name].double() for name in names).amax((1, 2)) / len(names)
            got = found[f"{variant}|{key[0]}|{key[1]}/scores"]
            np.testing.assert_allclose(got, highest, rtol=5e-3, atol=1e-5, err_msg=variant)


def by_hand(scores: Tensor, grid: tuple[int, int], size: int, average: str) -> Tensor:
    """Window scores (n, windows) as a map: the mean over the windows that cover a patch."""
    rows, columns = grid
    values = (1 / scores if average == "harmonic" else scores).reshape(
        len(scores), rows - size + 1, columns - size + 1
    )
    means = torch.empty(len(scores), rows, columns)
    for r in range(rows):
        for c in range(columns):
            own = values[:, max(0, r - size + 1) : r + 1, max(0, c - size + 1) : c + 1]
            means[:, r, c] = own.mean((1, 2))
    return 1 / means if average == "harmonic" else means


def test_draws_of_another_dataset_are_not_read_from_the_cache(oblong: Category, tmp_path: Path) -> None:
    """Draws depend on a category's place in its dataset; a dataset with fewer categories has others."""
    meta = oblong.dataset.meta
    alone = with_meta(oblong, meta[meta["category"] == "fuse"])
    assert any((alone.draws([1])[k] != images).any() for k, images in oblong.draws([1]).items())
    few_shot_arrays(oblong, [1])
    fresh = replace(alone, settings=replace(alone.settings, cache_dir=str(tmp_path)))
    for name, values in few_shot_arrays(fresh, [1]).items():
        np.testing.assert_array_equal(few_shot_arrays(alone, [1])[name], values)


# baselines


def maps_of(category: Category, part: AnomalyDataset, backbone: Backbone | None = None) -> dict[str, Tensor]:
    """Feature maps of a part of the dataset, as they are stored."""
    extractor = category.clip if backbone is None else backbone_extractor(backbone)
    (features,) = [p.load() for p in compute_features(extractor, part, category.settings.cache_dir)]
    layers = features.starting("layer")
    return {k: v.unflatten(1, category.encoder.grid) if backbone is None else v for k, v in layers.items()}


def only(maps: dict[str, Tensor], images: np.ndarray) -> dict[str, Tensor]:
    return {name: values[torch.from_numpy(np.sort(images))] for name, values in maps.items()}


def patchcore(query: dict, references: dict, layers: list[str], seed: int, size: tuple[int, int]) -> Output:
    own, kept = (few_shot_module.locally_aware({k: x[k] for k in layers}) for x in (query, references))
    return few_shot_module.patchcore(own, few_shot_module.patchcore_memory(kept, seed), size)


def test_baselines_are_those_of_the_library_on_the_clips_tokens(
    square: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fewer channels than there are, so that PaDiM's draw matters
    monkeypatch.setattr(few_shot_module, "DIMENSIONS", 50)
    methods = ("spade", "padim", "patchcore", "patchcore_last")
    detect = baseline_detector(square, [1, 2], None, methods)
    (features,) = [
        part.load() for part in compute_features(square.clip, square.test, square.settings.cache_dir)
    ]
    found, size = detect(features), square.encoder.image_size
    assert {*found} == {f"{m}|{k}|{s}" for m in methods for k in (1, 2) for s in (0, 1)}
    query, train = maps_of(square, square.test), maps_of(square, square.train)
    hidden = ["3", "4"]
    for (k, seed), images in square.draws([1, 2]).items():
        own = only(train, images)
        padim = few_shot_module.padim_memory(own, hidden, seed)
        expected = {
            "spade": few_shot_module.spade(query, own, hidden, "6", size),
            "padim": few_shot_module.padim(query, padim, size),
            "patchcore": patchcore(query, own, hidden, seed, size),
            "patchcore_last": patchcore(query, own, ["6"], seed, size),
        }
        for method, (scores, maps) in expected.items():
            output = found[f"{method}|{k}|{seed}"]
            assert_close(output.scores, scores, rtol=1e-4, atol=1e-4, msg=lambda m, n=method: f"{n}: {m}")
            assert_close(output.maps, maps, rtol=1e-4, atol=1e-4, msg=lambda m, n=method: f"{n}: {m}")
    assert len({output.scores.sum().item() for output in found.values()}) > len(methods)


def test_baselines_on_tiles(oblong: Category, kept: None) -> None:
    """Both tiles of a reference are remembered, an image's score is the mean over its tiles."""
    (scores,) = [
        record["values"]
        for record in few_shot_baselines(oblong, [2], None, ["patchcore"])
        if (record["task"], record["seed"]) == ("image", 0)
    ]
    draw = oblong.draws([2])[2, 0]
    train = maps_of(oblong, oblong.train)
    chosen = only(train, np.concatenate([2 * draw, 2 * draw + 1]))
    query, size = maps_of(oblong, oblong.test), oblong.encoder.image_size
    tiles = patchcore(query, chosen, ["3", "4"], 0, size).scores
    np.testing.assert_allclose(scores, tiles.reshape(-1, 2).mean(1), rtol=1e-4)


def test_patchcore_with_all_normal_images(square: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    records = full_shot(square)
    names = [(r["method"], r["shots"], r["seed"], r["task"]) for r in records]
    assert names == [("patchcore", FULL_SHOT, 0, "image"), ("patchcore", FULL_SHOT, 0, "pixel")]
    query, train = maps_of(square, square.test), maps_of(square, square.train)
    scores = patchcore(query, train, ["3", "4"], 0, square.encoder.image_size).scores
    assert records[0]["auroc"] == auroc(square.test.labels, scores)


# what the paper leaves open


@pytest.fixture(scope="module")
def options(oblong: Category) -> pd.DataFrame:
    return pd.DataFrame(open_choices(oblong))


FEW = ("layer_norm=1", "aggregate=arithmetic", "fuse=none", "fuse=mean")


def test_open_options_are_those_they_are_called(oblong: Category, options: pd.DataFrame) -> None:
    pixel = options[(options["task"] == "pixel") & (options["seed"] == 0)]
    found = pixel.set_index(["method", "variant"])["auroc"]

    def set_to(**values):
        return replace(oblong, settings=replace(oblong.settings, **values))

    categories = {
        "temperature=0.01": set_to(temperature=0.01),
        "temperature=0.07": set_to(temperature=0.07),
        "normalize_sentences=0": replace(oblong, normalize_sentences=False),
        "whole=squash": replace(oblong, whole="squash"),
        "map_size=64": set_to(map_size=64),
    }
    for variant, category in categories.items():
        assert found["winclip", variant] == zero_shot(category)[0]["auroc"] != found["winclip", ""]
        assert (
            found["winclip_plus", variant] == few_shot(category, [1])[0]["auroc"] != found["winclip_plus", ""]
        )
    for variant in FEW:
        name, _, text = variant.partition("=")
        records = few_shot(oblong, [1], **{name: True if name == "layer_norm" else text})
        assert found["winclip_plus", variant] == records[0]["auroc"] != found["winclip_plus", ""]


def test_fusion_changes_the_maps_and_not_the_scores(square: Category) -> None:
    (part,) = compute_features(square.clip, square.test, square.settings.cache_dir)
    features, texts = part.load(), square.texts()
    default, *others = (
        few_shot_detector(square, [1], **fuse)(features)["P+Wm+Ws|1|0"]
        for fuse in ({}, {"fuse": "harmonic"}, {"fuse": "mean"}, {"fuse": "none"})
    )
    harmonic, mean, none = (output.maps for output in others)
    options = {"grid": square.encoder.grid, "normal": texts[0], "anomalous": texts[1]}
    language = zero_shot_map(
        features.tensor("image"), features.windows(), temperature=square.temperature, **options
    )
    assert_close(none.amax((1, 2)), default.scores)
    assert_close(mean, (none + language) / 2)
    assert_close(harmonic, 2 / (1 / none + 1 / language))
    assert_close(default.maps, harmonic)
    tokens = operator.methodcaller("tensor", f"layer/{square.encoder.depth}")
    reference, draws = square.references(square.draws([1]), square.clip)
    memory = methods.fit_references(reference, draws[1, 0], tokens)
    own = methods.winclip_plus(features, tokens(features), memory, Output(maps=language), square.encoder.grid)
    assert_close(own["P+Wm+Ws"].maps, harmonic)  # the default of user images is that of the tables
    for output in others:
        assert_close(output.scores, default.scores, rtol=0, atol=0)
