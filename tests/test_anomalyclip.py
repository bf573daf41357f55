"""AnomalyCLIP on a dataset: what is trained on what, scores and maps, and the tables made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from exact import pixel_auroc
from scipy.ndimage import gaussian_filter

from zsad_core import methods, prompt_learning
from zsad_core.datasets import COLUMNS, AnomalyDataset, stretched_mask
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import TileFeatures
from zsad_core.metrics import aupr, auroc
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompts import object_name
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip import tables as anomalyclip_tables
from zsad_papers.anomalyclip.experiments import (
    SWITCHES,
    VARIANTS,
    clip_method,
    measured,
    method_of,
    run_experiment,
    score_statistics,
    training_options,
)
from zsad_papers.baselines.backbones import Backbone
from zsad_papers.common.data import dataset_of
from zsad_papers.common.experiment import Category, categories
from zsad_papers.common.results import load_published
from zsad_papers.common.settings import Settings


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(prompt_epochs=1, limit_images=2, prompt_image_size=120)


def squashed_category(settings: Settings, encoder: ClipEncoder, role: str, number: int = 0) -> Category:
    return replace(categories(settings, encoder, role)[number], whole="squash")


def test_auxiliary_sets_are_the_papers() -> None:
    assert {
        role: anomalyclip_experiments.auxiliary_role(role) for role in ("mvtec", "visa", "isic", "dagm")
    } == {
        "mvtec": "visa",
        "visa": "mvtec",
        "isic": "mvtec",
        "dagm": "mvtec",
    }
    assert methods.smoothing((518, 518)) == 4.0 and methods.smoothing((259, 259)) == 2.0


def test_scores_and_maps_by_hand(settings: Settings, large: ClipEncoder) -> None:
    """Softmax of cosines over 0.07 for the image and each patch, then upsampling and smoothing."""
    category = squashed_category(settings, large, "mvtec")
    prompts = anomalyclip_experiments.learned_prompts(settings, large, "visa")
    found = measured(category, method_of(category, prompts))

    texts = prompts.texts(large)[0].double()  # (2, d)
    pixels = [category.test.image(i).resize((120, 120), 3) for i in range(len(category.test))]
    batch = torch.stack([large.preprocess(image) for image in pixels])
    heads = large.embed_images(batch, final_norm=False).double()
    expected = (heads @ texts.T / 0.07).softmax(-1)[:, 1]
    np.testing.assert_allclose(found["/scores"], expected, rtol=2e-3)  # features are kept in float16

    (patches,) = large.embed_patches(batch, prompts.config.layers, "vv", prompts.config.first).values()
    maps = (patches.double() @ texts.T / 0.07).softmax(-1)[..., 1].unflatten(1, large.grid)
    up = F.interpolate(maps[:, None], (120, 120), mode="bilinear", align_corners=False)[:, 0].numpy()
    smooth = [gaussian_filter(one, 4 * 120 / 518) for one in up]
    masks = [stretched_mask(category.test.mask(i), (120, 120)) for i in range(len(category.test))]
    assert found["/pixel"][0] == pytest.approx(pixel_auroc(masks, smooth), abs=2e-3)


def test_a_map_is_the_mean_over_layers() -> None:
    rng, grid = np.random.default_rng(0), (2, 3)
    unit = F.normalize(torch.from_numpy(rng.normal(size=(15, 8))), dim=-1)
    texts, head, *layers = unit.split([2, 1, 6, 6])
    arrays = {"global": head.numpy(), "local/1": layers[0][None].numpy(), "local/2": layers[1][None].numpy()}
    features = TileFeatures(pd.DataFrame(), *np.empty((3, 0)), arrays)
    each = [(layer @ texts.T / 0.5).softmax(-1)[:, 1] for layer in layers]
    torch.testing.assert_close(
        methods.anomalyclip(features, texts, grid, 0.5).maps[0], sum(each).view(grid) / 2
    )


def test_images_that_trained_the_prompts_are_refused(settings: Settings, large: ClipEncoder) -> None:
    category = squashed_category(settings, large, "visa")
    prompts = anomalyclip_experiments.learned_prompts(settings, large, "visa")
    with pytest.raises(ValueError, match="4 of 4 images of mini_visa trained these prompts.*not zero-shot"):
        method_of(category, prompts)
    assert len(measured(category, method_of(category, prompts, allow_training_images=True))["/scores"]) == 4


def test_prompts_are_learned_once_and_kept_under_what_they_depend_on(
    settings: Settings, large: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = anomalyclip_experiments.learned_prompts(settings, large, "visa")
    with monkeypatch.context() as patch:
        patch.setattr(prompt_learning, "train_prompts", lambda *_, **__: pytest.fail("learned again"))
        again = anomalyclip_experiments.learned_prompts(settings, large, "visa")
    assert all(torch.equal(first.parameters[name], again.parameters[name]) for name in first.parameters)
    other = anomalyclip_experiments.learned_prompts(settings, large, "visa", seed=5)
    assert not torch.equal(first.parameters["context/normal"], other.parameters["context/normal"])
    assert not list((Path(settings.cache_dir) / "prompts").glob("*unfinished*"))
    nothing = replace(settings, datasets={**settings.datasets, "visa": None})
    assert anomalyclip_experiments.learned_prompts(nothing, large, "visa") is None


def test_clip_baselines_by_hand(settings: Settings, large: ClipEncoder) -> None:
    category = squashed_category(settings, large, "mvtec")
    name = object_name(category.name)
    pair = large.embed_text([f"A photo of a normal {name}", f"A photo of an anomalous {name}"])
    pixels = torch.stack(
        [large.preprocess(category.test.image(i).resize((120, 120), 3)) for i in range(len(category.test))]
    )
    expected = (large.embed_images(pixels) @ pair.T / 0.07).softmax(-1)[:, 1]
    np.testing.assert_allclose(measured(category, clip_method(category))["/scores"], expected, rtol=2e-3)
    ensemble = anomalyclip_experiments.clip_texts(large, category.name, settings.cache_dir, ensemble=True)
    torch.testing.assert_close(ensemble.norm(dim=-1), torch.ones(2))
    assert (ensemble - pair).abs().max() > 0.01


def test_every_variant_of_the_published_tables_has_its_options(large: ClipEncoder) -> None:
    published = load_published("anomalyclip").query("method == 'anomalyclip'")
    wanted = set(published["variant"]) - {"base", "+T1", "tuned=medical"}
    assert wanted <= set(VARIANTS)
    for variant in [*wanted, *(f"code:{name}" for name in SWITCHES), "M=1", "L=2", "E=8", "N=3"]:
        prompt_config_of(large, **training_options(variant))
    with pytest.raises(ValueError, match="variant 'E=x': expected one of"):
        training_options("E=x")


def test_tables_of_a_module_agree_on_what_it_is() -> None:
    """The same model under several names: the tables of the paper overlap."""
    assert VARIANTS["+T3"] == VARIANTS["-T4"] and VARIANTS["+T4"] == VARIANTS[""] == {}
    assert VARIANTS["focal=0;dice=0"] == VARIANTS["local=0;global=1"]
    assert VARIANTS["-T1"] == VARIANTS["attention=qk"] == VARIANTS["wo_dpam"]
    assert VARIANTS["-T2"] == VARIANTS["object_aware"]


def test_one_map_four_times_is_lambda_4(large: ClipEncoder) -> None:
    full, one = prompt_config_of(large), prompt_config_of(large, **training_options("-T4"))
    assert (full.local_weight, one.local_weight) == (4.0, 1.0)
    assert replace(full, local_weight=1.0) == one


def test_records_hold_what_the_data_allow(settings: Settings, large: ClipEncoder) -> None:
    """Image metrics need both classes, pixel metrics need masks."""
    kinds = {}
    for role in ("mvtec", "headct", "isic"):
        frame = run_experiment(settings, large, role, [""])
        kinds[role] = set(frame["task"])
    assert kinds == {"mvtec": {"image", "pixel"}, "headct": {"image"}, "isic": {"pixel"}}

    category = squashed_category(settings, large, "mvtec")
    prompts = anomalyclip_experiments.learned_prompts(settings, large, "visa")
    scores = measured(category, method_of(category, prompts))["/scores"]
    (record,) = (
        run_experiment(settings, large, "mvtec", [""])
        .query("task == 'image' and category == @category.name")
        .to_dict("records")
    )
    assert record["auroc"] == auroc(category.test.labels, scores) and record["ap"] == aupr(
        category.test.labels, scores
    )


def test_medical_tuning_learns_on_all_images_of_its_set(settings: Settings, large: ClipEncoder) -> None:
    prompts = anomalyclip_experiments.learned_prompts(settings, large, anomalyclip_experiments.MEDICAL)
    assert len(prompts.trained_on) == len(dataset_of(settings, anomalyclip_experiments.MEDICAL)) > 2
    assert set(run_experiment(settings, large, "kvasir", ["tuned=medical"])["variant"]) == {"tuned=medical"}
    assert "tuned=medical" not in anomalyclip_tables.variants_of(
        settings, anomalyclip_experiments.MEDICAL
    )  # it trained them


def test_vand_beside_it(settings: Settings, large: ClipEncoder) -> None:
    frame = run_experiment(settings, large, "mvtec", ["vand"])
    assert set(frame["method"]) == {"vand"} and set(frame["task"]) == {"image", "pixel"}
    assert set(run_experiment(settings, large, "headct", ["vand"])["task"]) == {"image"}
    adapters = anomalyclip_experiments.learned_adapters(settings, large, "visa")
    with pytest.raises(ValueError, match="trained these adapters"):
        adapters.refuse_training_images(squashed_category(settings, large, "visa").test)


def test_score_statistics() -> None:
    scores, labels = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 0, 1, 1])
    assert score_statistics(scores, labels)["score_overlap"] == 0.0
    mixed = score_statistics(np.array([0.1, 0.9, 0.1, 0.9]), labels)
    assert mixed["score_overlap"] == 1.0 and mixed["score_mean"] == 0.5
    assert mixed["score_std"] == pytest.approx(0.4)


def test_rows_carry_published_names(settings: Settings, large: ClipEncoder) -> None:
    """Rows of the tables are found again among the published ones."""
    records = pd.concat([run_experiment(settings, large, "mvtec", ["baselines", "", "+T2", "+T3", "+T4"])])
    keys = ["artifact", "task", "method", "variant", "metric", "shots"]
    published = set(map(tuple, load_published("anomalyclip").query("dataset == 'mvtec'")[keys].to_numpy()))
    main, modules = (
        anomalyclip_tables.main_rows(records, "mini_mvtec", "T1"),
        anomalyclip_tables.ablation_rows(records, "mini_mvtec", "T4"),
    )
    for frame, size in ((main, 3 * 4), (modules, 5 * 4)):
        assert len(frame) == size and set(map(tuple, frame[keys].to_numpy())) <= published
    by_class = anomalyclip_tables.classwise_rows(records, "mvtec", "mini_mvtec")
    assert set(by_class["artifact"]) == {"T15", "T16", "T17", "T18"}
    mean = by_class.query("category == 'mean' and artifact == 'T17' and method == 'clip'")["mean"].item()
    clip = records.query("method == 'clip' and variant == '' and task == 'image'")
    assert mean == pytest.approx(100 * clip["auroc"].mean())


def test_gain_is_better_minus_worse_and_ap_is_the_aupr() -> None:
    names = {"method": "anomalyclip", "category": "mean", "dataset": "d", "task": "image", "metric": "auroc"}
    beside = pd.DataFrame([{**names, "variant": v, "mean": mean} for v, mean in (("", 90.0), ("-T1", 87.0))])
    assert anomalyclip_tables.gain(beside, "", "-T1", [("image", "auroc")])["gain"].tolist() == [3.0]
    assert anomalyclip_tables._with_ap([{"auroc": 0.9, "aupr": 0.7}])["ap"].tolist() == [0.7]


def test_counts_of_the_datasets(settings: Settings) -> None:
    counts = anomalyclip_tables.count_rows(settings).pivot(index="dataset", columns="metric", values="mean")
    assert counts.loc["mini_mvtec"].to_dict() == {"n_anomalous": 24, "n_categories": 12, "n_normal": 24}
    assert counts.loc["mini_medical_pixel/skin", "n_normal"] == 0


def test_a_missing_dataset_gives_no_rows(settings: Settings, large: ClipEncoder) -> None:
    none = replace(settings, datasets=dict.fromkeys(settings.datasets))
    assert run_experiment(none, large, "mvtec", ["", "baselines"]).empty
    assert anomalyclip_tables.main_rows(run_experiment(none, large, "mvtec", [""]), "x", "T1").empty
    assert anomalyclip_tables.winclip_records(none, large, "mvtec").empty


def test_rd4ad_is_taught_by_the_three_layers_that_it_has_a_student_for(monkeypatch) -> None:
    """Though the backbone of the other baselines is read at a fourth."""
    seen = []

    def extractor(normal, backbone: Backbone) -> None:
        seen.append(backbone.layers)
        raise StopIteration

    monkeypatch.setattr(anomalyclip_tables, "rd4ad_extractor", extractor)
    layers = ("layer1", "layer2", "layer3", "layer4")
    backbone = Backbone(
        "b", "w", layers, (8, 8), torch.nn.Identity(), torch.device("cpu"), lambda image: image
    )
    with pytest.raises(StopIteration):
        anomalyclip_tables.rd4ad(
            Category(None, None, AnomalyDataset(Path(), "x", pd.DataFrame(columns=list(COLUMNS)), None), "c"),
            backbone,
        )
    assert seen == [("layer1", "layer2", "layer3")]
