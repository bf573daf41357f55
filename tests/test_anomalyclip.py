from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import pixel_auroc
from scipy.ndimage import gaussian_filter

from zsad_core import methods
from zsad_core.datasets import stretched_mask
from zsad_core.losses import PARTS
from zsad_core.metrics import aupr, auroc
from zsad_papers.anomalyclip import experiments, learning
from zsad_papers.anomalyclip import tables as anomalyclip_tables
from zsad_papers.anomalyclip.experiments import measured, method_of, run_experiment
from zsad_papers.common.results import compare, load_published


@pytest.fixture(scope="module")
def settings(settings_of):
    return settings_of(epochs_share=0.01, prompt_seeds=2, limit_images=2, prompt_image_size=120)


def test_auxiliary_sets_smoothing_and_shares_of_epochs(settings):
    found = [learning.auxiliary_dataset(dataset) for dataset in ("mvtec", "visa", "isic", "dagm")]
    assert found == ["visa", "mvtec", "mvtec", "mvtec"]
    assert methods.smoothing((518, 518)) == 4.0 and methods.smoothing((259, 259)) == 2.0
    for share, epochs, expected in ((1, 15, 15), (0.333, 50, 17), (0.01, 3, 1), (1, 0, 0)):
        assert learning.shared_epochs(replace(settings, epochs_share=share), epochs) == expected


def test_prompts_are_learned_once_and_kept_under_what_they_depend_on(settings, large, monkeypatch):
    first, other = (learning.learned_prompts(settings, large, "visa", seed=seed) for seed in (111, 5))
    assert not torch.equal(first.parameters["context/normal"], other.parameters["context/normal"])
    assert not list((Path(settings.cache_dir) / "prompts").glob("*unfinished*"))
    monkeypatch.setattr(learning, "train_side_by_side", lambda *_, **__: pytest.fail("learned again"))
    again = learning.learned_prompts(settings, large, "visa")
    assert all(torch.equal(first.parameters[name], again.parameters[name]) for name in first.parameters)


def test_vand_learns_longer_on_visa_and_with_mosaics_on_mvtec(settings, large, monkeypatch):
    asked, whole = [], replace(settings, epochs_share=1.0)
    monkeypatch.setattr(learning, "train_adapters", lambda *_, **recipe: asked.append(recipe))
    for auxiliary in ("mvtec", "visa"):
        with pytest.raises(AttributeError):  # nothing was learned that could be saved
            learning.learned_adapters(whole, large, auxiliary)
    assert [(recipe["epochs"], recipe["mosaic"]) for recipe in asked] == [(3, 0.2), (15, 0.0)]


def test_scores_and_maps_by_hand(settings, large):
    category = experiments.squashed(settings, large, "mvtec")[0]
    prompts = learning.learned_prompts(settings, large, "visa", n_layers=2, epochs=0)
    found = measured(category, method_of(category, prompts))
    texts = prompts.texts(large)[0].double()  # (2, d)
    pixels = [category.test.image(i).resize((120, 120), 3) for i in range(len(category.test))]
    batch = torch.stack([large.preprocess(image) for image in pixels])
    heads = large.embed_images(batch, final_norm=False).double()
    expected = (heads @ texts.T / 0.07).softmax(-1)[:, 1]
    np.testing.assert_allclose(found["/scores"], expected, rtol=2e-3)  # features are kept in float16
    layers = large.embed_patches(batch, prompts.config.layers, "vv", prompts.config.first).values()
    one, other = ((patches.double() @ texts.T / 0.07).softmax(-1)[..., 1] for patches in layers)
    maps = ((one + other) / 2).unflatten(1, large.grid)  # the mean over layers
    up = F.interpolate(maps[:, None], (120, 120), mode="bilinear", align_corners=False)[:, 0].numpy()
    smooth = [gaussian_filter(one, 4 * 120 / 518) for one in up]
    masks = [stretched_mask(category.test.mask(i), (120, 120)) for i in range(len(category.test))]
    assert found["/pixel"][0] == pytest.approx(pixel_auroc(masks, smooth), abs=2e-3)


def test_records_hold_what_the_data_allow(settings, large):
    frames = {name: run_experiment(settings, large, name, [""]) for name in ("mvtec", "headct", "isic")}
    kinds = {name: set(frame["task"]) for name, frame in frames.items()}
    assert kinds == {"mvtec": {"image", "pixel"}, "headct": {"image"}, "isic": {"pixel"}}
    assert set(frames["mvtec"]["seed"]) == {111, 112}
    counts = anomalyclip_tables.count_rows(settings).set_index(["dataset", "metric"])["mean"]
    assert counts[settings.datasets["isic"]].to_dict() == {"n_categories": 1, "n_normal": 0, "n_anomalous": 2}
    printed = load_published("anomalyclip").query("artifact == 'T6'")
    guesses = anomalyclip_tables.guesses(compare(printed, anomalyclip_tables.count_rows(settings)))
    assert guesses["published"]["sdd"] == 100 * 74 / 255 and np.isnan(guesses["published"]["isic"])
    category = experiments.squashed(settings, large, "mvtec")[0]
    prompts = learning.learned_prompts(settings, large, "visa")
    scores = measured(category, method_of(category, prompts))["/scores"]
    own = frames["mvtec"].query("task == 'image' and category == @category.name and seed == 111")
    (record,), labels = own.to_dict("records"), category.test.labels
    assert (record["auroc"], record["ap"]) == (auroc(labels, scores), aupr(labels, scores))


def test_rows_are_made_of_the_records_that_they_are_named_for():
    kinds = [("anomalyclip", variant) for variant in ("", "+T2", "+T3", "+T4")]
    kinds += [("clip", ""), ("vand", ""), ("rd4ad", "")]
    frame = pd.DataFrame(kinds, columns=["method", "variant"]).assign(task="image", shots=0, seed=111)
    frame["auroc"] = np.arange(len(kinds)) / 10
    records = pd.concat([frame.assign(category="a"), frame.assign(category="b", auroc=frame["auroc"] + 0.1)])
    expected = {kind: 10.0 * i + 5 for i, kind in enumerate(kinds)}
    main = anomalyclip_tables.main_rows(records, "toys", "T1").set_index(["method", "variant"])["mean"]
    assert main.to_dict() == pytest.approx({kind: expected[kind] for kind in (kinds[0], *kinds[4:6])})
    second = records.iloc[[0, len(kinds)]].assign(seed=112, auroc=[0.2, 0.3])  # of the full method
    records = pd.concat([records, second])
    first = anomalyclip_tables.main_rows(records, "toys", "T1").iloc[0]
    assert (first["mean"], first["std"]) == pytest.approx((15, 200**0.5))
    one = anomalyclip_tables.rows_of(records, "toys", "F8", method="anomalyclip", variant=["", "E=4"])
    assert one["mean"].tolist() == pytest.approx([5]) and one["std"].isna().all()  # at the seed of the sweep
    modules = anomalyclip_tables.ablation_rows(records, "toys", "T4").set_index(["method", "variant"])["mean"]
    assert modules.to_dict() == pytest.approx({kind: expected[kind] for kind in kinds[1:4]})
    by_class = anomalyclip_tables.classwise_rows(records, "mvtec", "toys")
    assert set(by_class["category"]) == {"a", "b", "mean"} and set(by_class["variant"]) == {""}


def test_gain_is_better_minus_worse_ap_is_the_aupr_and_scores_overlap_by_half():
    names = {"method": "anomalyclip", "category": "mean", "dataset": "d", "task": "image", "metric": "auroc"}
    beside = pd.DataFrame([{**names, "variant": v, "mean": mean} for v, mean in (("", 90.0), ("-T1", 87.0))])
    assert anomalyclip_tables.gain(beside, "", "-T1", [("image", "auroc")])["gain"].tolist() == [3.0]
    scores, labels = np.array([0.1, 0.3, 0.3, 0.5, 0.3, 0.9]), np.array([0, 0, 0, 0, 1, 1])
    expected = {"score_mean": 0.4, "score_std": np.std(scores), "score_overlap": 0.5}
    assert experiments.score_statistics(scores, labels) == pytest.approx(expected)


def test_ablations_change_what_they_are_named_for():
    changed = [{"attention"}, {"object_word"}, {"depth", "length"}, {"local_weight"}]
    assert [set(options) for options in experiments.ABLATIONS["T7"].values()] == [set(), *changed]
    for name, options in experiments.ABLATIONS["T11"].items():
        dice = {"dice_anomalous", "dice_normal"} if "dice=1" in name else set()
        assert set(options.get("local", PARTS)) == dice | ({"focal"} if "focal=1" in name else set())
