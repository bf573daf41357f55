"""WinCLIP's tables: which record becomes which row, and that the papers' keys meet."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import image_embeddings
from zsad_core.windows import winclip_map
from zsad_papers.common import results
from zsad_papers.common.experiment import Category, categories, run_experiment
from zsad_papers.common.results import COLUMNS, FULL_SHOT, KEYS, compare, load_published, validate
from zsad_papers.common.settings import Settings, read_settings
from zsad_papers.rwda import experiments as rwda_experiments
from zsad_papers.rwda import tables as rwda_tables
from zsad_papers.winclip import costs as winclip_costs
from zsad_papers.winclip import tables as winclip_tables
from zsad_papers.winclip.experiments import few_shot_scores, zero_shot, zero_shot_classification

ROLES = {"mvtec": "mini_mvtec", "visa": "mini_visa"}
CHOSEN = {"mini_mvtec": ("capsule", "screw"), "mini_visa": ("cashew", "fuse")}
BASELINES = ["spade", "padim", "patchcore"]
IMAGE, PIXEL = {"auroc", "aupr", "f1max"}, {"auroc", "f1max", "pro"}


def write_config(folder: Path, name: str, **vision: int) -> Path:
    sizes = {"image_size": 48, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16, **vision}
    config = {"embed_dim": 16, "vision_cfg": sizes, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    (folder / f"{name}.json").write_text(json.dumps(config))
    return folder / f"{name}.json"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return load_encoder(write_config(tmp_path_factory.mktemp("configs"), "tiny"), "random", device="cpu")


@pytest.fixture(scope="module")
def settings(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two categories of each dataset; the bent screw is called a flipped one."""
    folder = tmp_path_factory.mktemp("data")
    for dataset, chosen in CHOSEN.items():
        (folder / dataset).mkdir()
        meta = pd.read_csv(small_data / dataset / "meta.csv", keep_default_na=False)
        meta = meta[meta["category"].isin(chosen)].replace({"defect": {"bent": "flip"}})
        meta.to_csv(folder / dataset / "meta.csv", index=False)
        for name in chosen:
            (folder / dataset / name).symlink_to(small_data / dataset / name, target_is_directory=True)
    own = {"data_dir": str(folder), "cache_dir": str(tmp_path_factory.mktemp("cache")), "device": "cpu"}
    return read_settings(
        {**own, "reference_seeds": 2, "shots": [1, 2], "ablation_shots": [1, 2, 3], "map_size": 24}
    )


@pytest.fixture(scope="module")
def records(settings: Settings, encoder: ClipEncoder) -> dict[str, pd.DataFrame]:
    return {role: winclip_tables.all_records(settings, encoder, role) for role in ROLES}


def without_dataset(settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    nothing = replace(settings, datasets=dict.fromkeys(settings.datasets))
    return winclip_tables.all_records(nothing, encoder, "mvtec")


# records to rows


@pytest.fixture
def made() -> pd.DataFrame:
    """Records of two categories, two seeds and two shots with known numbers."""
    lines = [
        {"category": category, "method": m, "variant": v, "shots": k, "seed": s, "task": "image"}
        for m, v in (("winclip_plus", "score=max_map"), ("padim", ""))
        for k in (1, 2)
        for s in (0, 1)
        for category in ("a", "b")
    ]
    frame = pd.DataFrame(lines).assign(auroc=np.arange(16) / 20, aupr=0.5)
    pixel = frame[frame["method"] == "padim"].assign(task="pixel", aupr=math.nan, pro=0.25)
    return pd.concat([frame, pixel], ignore_index=True)


def test_tidy_selects_names_and_takes_percentages(made: pd.DataFrame) -> None:
    found = results.tidy(made, "toys", "T5", method="winclip_plus", shots=[2], task="image")
    assert list(found.columns) == COLUMNS and set(found["metric"]) == {"auroc", "aupr"}
    row = found[found["metric"] == "auroc"].iloc[0]
    assert row[["paper", "artifact", "dataset", "category"]].tolist() == ["winclip", "T5", "toys", "mean"]
    assert row[["shots", "method", "variant"]].tolist() == [2, "winclip_plus", "score=max_map"]
    assert row["mean"] == pytest.approx(27.5) and row["std"] == pytest.approx(math.sqrt(50))  # 22.5, 32.5


def test_tidy_leaves_out_what_was_not_measured(made: pd.DataFrame) -> None:
    pixel = results.tidy(made, "toys", "T4", task="pixel")
    assert set(pixel["metric"]) == {"auroc", "pro"} and set(pixel["method"]) == {"padim"}
    assert (pixel.loc[pixel["metric"] == "pro", "mean"] == 25).all()
    assert results.tidy(made, "toys", "T4", method="nobody").columns.tolist() == COLUMNS


def test_tidy_keeps_categories_and_an_artifact_for_each_metric(made: pd.DataFrame) -> None:
    options = {"keep": "both", "names": {"score=max_map": "short"}, "paper": "rwda"}
    artifact = {"auroc": "A5", "aupr": "A6"}
    found = results.tidy(made, "toys", artifact, task="image", shots=1, **options)
    assert set(map(tuple, found[["artifact", "metric"]].to_numpy())) == {("A5", "auroc"), ("A6", "aupr")}
    assert set(found["category"]) == {"a", "b", "mean"} and set(found["variant"]) == {"short", ""}
    assert set(found["paper"]) == {"rwda"}
    only = results.tidy(made, "toys", artifact, task="image", keep="categories")
    assert set(only["category"]) == {"a", "b"}


# comparisons


def keys_of(frame: pd.DataFrame, *names: str) -> set:
    return set(frame[[*names]].itertuples(index=False, name=None))


def test_comparison_rows_are_methods_without_ablations(
    settings: Settings, records: dict[str, pd.DataFrame]
) -> None:
    for role, dataset in ROLES.items():
        for task, artifact in (("image", "T1"), ("pixel", "T4")):
            found = winclip_tables.comparison_rows(records[role], role, dataset, task, settings.shots)
            few = {(m, k) for m in ("winclip_plus", *BASELINES) for k in (1, 2)}
            others = ("clip_ac", "clip_ac_prompt_ens") if task == "image" else ("maskclip", "trans_mm")
            assert keys_of(found, "method", "shots") == few | {(m, 0) for m in ("winclip", *others)}
            assert set(found["variant"]) == {""} and set(found["category"]) == {"mean"}
            assert set(found["artifact"]) == {artifact} and set(found["dataset"]) == {dataset}
            assert set(found["metric"]) == (IMAGE if task == "image" else PIXEL)
            assert not found.duplicated(KEYS).any()
            assert (found["std"].notna() == (found["shots"] > 0)).all()


def test_the_full_method_is_the_one_in_the_comparison(
    settings: Settings, records: dict[str, pd.DataFrame]
) -> None:
    frame = records["mvtec"]
    found = winclip_tables.comparison_rows(frame, "mvtec", "mini_mvtec", "image", [2])
    for method, variant in (("winclip_plus", "score=ascore0+max_map"), ("winclip", "multi_crop")):
        own = frame[(frame["method"] == method) & (frame["variant"] == variant)]
        own = own[own["shots"].isin([0, 2])]
        row = found[(found["method"] == method) & (found["metric"] == "auroc")]
        assert row["mean"].item() == pytest.approx(100 * own["auroc"].mean())
    pixel = winclip_tables.comparison_rows(frame, "mvtec", "mini_mvtec", "pixel", [1])
    own = frame[(frame["variant"] == "maps=P+Wm+Ws") & (frame["shots"] == 1)]
    row = pixel[(pixel["method"] == "winclip_plus") & (pixel["metric"] == "pro")]
    assert row["mean"].item() == pytest.approx(100 * own["pro"].mean())


def test_class_by_class(settings: Settings, records: dict[str, pd.DataFrame]) -> None:
    expected = {
        "mvtec": ["T10", "T11", "T12", "T13", "T14", "T15"],
        "visa": ["T16", "T17", "T18", "T19", "T20", "T21"],
    }
    measures = [("image", "auroc"), ("image", "aupr"), ("image", "f1max")]
    measures += [("pixel", "auroc"), ("pixel", "pro"), ("pixel", "f1max")]
    for role, dataset in ROLES.items():
        found = winclip_tables.classwise_rows(records[role], role, dataset, settings.shots)
        pairs = {(table, *measure) for table, measure in zip(expected[role], measures, strict=True)}
        assert keys_of(found, "artifact", "task", "metric") == pairs
        assert set(found["category"]) == {*CHOSEN[dataset], "mean"}
        assert set(found["method"]) == {"winclip", "winclip_plus", *BASELINES}
        assert set(found["shots"]) == {0, 1, 2} and set(found["variant"]) == {""}


def test_table_of_a_supplement(
    settings: Settings, records: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = winclip_tables.classwise_rows(records["mvtec"], "mvtec", "mini_mvtec", [1])
    beside = compare(load_published("winclip"), rows, roles=ROLES, keep="both")
    table = winclip_tables.classwise_table(beside, "T10")
    assert "<span>Table 10: image AUROC (%) on MVTec-AD, by category; measured on mini_mvtec<" in table.html
    assert 'scope="rowgroup"' in table.html and 'scope="colgroup"' in table.html

    monkeypatch.setattr(winclip_tables, "as_table", lambda frame, caption: frame)
    frame = winclip_tables.classwise_table(beside, "T10")
    blocks = {name: own.index.get_level_values("category").tolist() for name, own in frame.groupby(level=0)}
    assert len(blocks["published"]) == 16 and blocks["published"][-1] == "mean"
    assert sorted(blocks["measured"]) == sorted(blocks["difference"]) == ["capsule", "mean", "screw"]
    assert frame.loc[("published", "metal nut"), ("1-shot", "SPADE")] == "71.0 ± 2.2"
    assert (frame.loc["measured", ["2-shot", "4-shot"]] == "-").all(axis=None)
    own = rows.query("artifact == 'T10' and category == 'screw'").set_index("method").loc["winclip_plus"]
    assert frame.loc[("measured", "screw"), ("1-shot", "WinCLIP+")] == f"{own['mean']:.1f} ± {own['std']:.1f}"
    assert frame.loc[("difference", "screw"), ("1-shot", "WinCLIP+")] == f"{own['mean'] - 86.4:+.1f}"
    signs = {text[0] for text in frame.loc["difference"].to_numpy().ravel() if text != "-"}
    assert signs == {"+", "-"}  # a gain has its sign too


def test_table_of_a_supplement_that_was_not_run() -> None:
    nothing = validate(pd.DataFrame(columns=COLUMNS))
    beside = compare(load_published("winclip"), nothing, roles=ROLES, keep="both")
    text = winclip_tables.classwise_table(beside, "T21").text
    assert text.startswith("Table 21: pixel F1-max (%) on VisA, by category\n") and "difference" not in text
    beside = compare(load_published("winclip"), nothing, roles={"mvtec": "mini_mvtec"}, keep="both")
    assert "dataset missing, nothing measured" in winclip_tables.classwise_table(beside, "T21").text


def test_many_shots(records: dict[str, pd.DataFrame]) -> None:
    """WinCLIP with 0, WinCLIP+ with 1 and 4 (here 2) and PatchCore with all; its few shots stay out."""
    frame = records["mvtec"]
    found = winclip_tables.many_shot_rows(frame.replace({"shots": {2: 4}}), "mini_mvtec")
    expected = {("winclip", 0), ("winclip_plus", 1), ("winclip_plus", 4), ("patchcore", FULL_SHOT)}
    assert keys_of(found, "method", "shots", "task") == {
        (*e, t) for e in expected for t in ("image", "pixel")
    }
    assert set(found["metric"]) == {"auroc"} and set(found["artifact"]) == {"T2"} and len(found) == 8
    assert found.loc[found["shots"] == FULL_SHOT, "std"].isna().all()
    assert set(winclip_tables.many_shot_rows(frame, "mini_mvtec")["shots"]) == {0, 1, FULL_SHOT}


# ablations


def test_ablations_of_the_first_dataset(settings: Settings, records: dict[str, pd.DataFrame]) -> None:
    found = winclip_tables.ablation_rows(records["mvtec"], "mvtec", "mini_mvtec", settings.ablation_shots)
    tables = dict([*found.groupby("artifact")])
    assert {*tables} == {"T3", "T5", "T6", "T8", "sec4.3"}
    variants = {table: keys_of(own, "variant", "shots") for table, own in tables.items()}
    names = ("one_class", "two_class", "state_ens", "prompt_ens", "multi_crop")
    assert variants["T3"] == {(name, 0) for name in names}
    scores = ("score=max_map", "score=ascore0", "score=ascore0+max_map")
    assert variants["T5"] == {(name, k) for name in scores for k in (1, 2, 3)}
    assert variants["T6"] == {
        (name, k) for name in ("maps=P", "maps=P+Wm", "maps=P+Wm+Ws") for k in (1, 2, 3)
    }
    names = ("", "wo_image_scale", "wo_mid_scale", "wo_small_scale", "wo_harmonic", "patch_token")
    assert variants["T8"] == {(name, 0) for name in (*names, "image_tiling")}
    for table in ("T5", "T6"):
        assert set(tables[table]["metric"]) == {"auroc"} and set(tables[table]["method"]) == {"winclip_plus"}
    assert set(tables["T3"]["task"]) == {"image"} and set(tables["T8"]["task"]) == {"pixel"}
    assert set(tables["T6"]["task"]) == {"pixel"} and set(tables["T5"]["task"]) == {"image"}
    flipped = tables["sec4.3"]
    assert set(flipped["category"]) == {"screw"} and set(flipped["variant"]) == {"defect=flip"}
    expected = {("winclip", 0)} | {("winclip_plus", k) for k in (1, 2, 3)}
    assert keys_of(flipped, "method", "shots") == expected


def test_ablations_of_the_second_dataset(settings: Settings, records: dict[str, pd.DataFrame]) -> None:
    found = winclip_tables.ablation_rows(records["visa"], "visa", "mini_visa", settings.ablation_shots)
    specific, crops = found[found["artifact"] == "T7"], found[found["artifact"] == "suppA"]
    assert len(specific) + len(crops) == len(found)
    assert set(specific["category"]) == {"cashew", "fuse", "mean"} and set(specific["metric"]) == {"auroc"}
    assert set(specific["variant"]) == {"", "specific_states"}
    assert keys_of(crops, "variant", "category") == {("whole=center_crop", "mean"), ("whole=squash", "mean")}
    whole = found[found["metric"] == "auroc"].set_index(["artifact", "category", "variant"])["mean"]
    assert whole["T7", "mean", ""] != whole["suppA", "mean", "whole=squash"]


# backbones


def test_patchcore_on_the_clip(
    settings: Settings, encoder: ClipEncoder, records: dict[str, pd.DataFrame]
) -> None:
    found = winclip_tables.patchcore_rows(settings, encoder, records["mvtec"], "mini_mvtec")
    assert set(found["method"]) == {"patchcore_clip_hidden", "patchcore_clip_last", "winclip_plus"}
    assert set(found["variant"]) == {"backbone=tiny"} and set(found["shots"]) == {1, 2}
    assert keys_of(found, "task", "metric") == {("image", m) for m in IMAGE} | {("pixel", m) for m in PIXEL}
    means = found.query("task == 'image' and metric == 'auroc' and shots == 1").set_index("method")["mean"]
    # the CLIP is the backbone of this run's baselines too
    own = winclip_tables.comparison_rows(records["mvtec"], "mvtec", "mini_mvtec", "image", [1])
    own = own[own["metric"] == "auroc"].set_index("method")["mean"]
    assert means["patchcore_clip_hidden"] == own["patchcore"] and means["winclip_plus"] == own["winclip_plus"]


def test_patchcore_on_its_own_backbone(
    settings: Settings, encoder: ClipEncoder, records: dict[str, pd.DataFrame]
) -> None:
    for backbone, name in (("wide_resnet50_2", "wrn_50_2"), ("resnet18", "resnet18")):
        named = replace(settings, backbone=backbone)
        found = winclip_tables.patchcore_rows(named, encoder, records["mvtec"], "mini_mvtec")
        assert set(found.loc[found["method"] == "patchcore", "variant"]) == {f"backbone={name}"}
        assert set(found.loc[found["method"] != "patchcore", "variant"]) == {"backbone=tiny"}


def test_published_name() -> None:
    def name(model):
        return winclip_tables.published_name(SimpleNamespace(model_id=model))

    published = load_published("winclip").query("artifact == 'S9'")["variant"].str.removeprefix("backbone=")
    assert name("ViT-B-16-plus-240") == "vit_b_16_plus" and name("ViT-B-16") == "vit_b_16"
    assert {name(m) for m in ("ViT-B-16-plus-240", "ViT-B-16", "ViT-L-14", "RN50x4")} <= set(published)
    assert name("tiny@0123456789ab") == "tiny" and name("zsad-mini") == "zsad_mini"


def test_backbones(
    settings: Settings, encoder: ClipEncoder, records: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    alone = winclip_tables.backbone_rows(settings, encoder, records["mvtec"], "mini_mvtec")
    assert keys_of(alone, "artifact", "variant", "task", "metric", "shots") == {
        ("S9", "backbone=tiny", task, "auroc", 0) for task in ("image", "pixel")
    }
    frame = records["mvtec"][records["mvtec"]["method"] == "winclip"]
    single = frame[frame["variant"] == "prompt_ens"]["auroc"].mean()
    pixel = frame[(frame["variant"] == "") & (frame["task"] == "pixel")]["auroc"].mean()
    means = alone.set_index("task")["mean"]
    assert means["image"] == pytest.approx(100 * single) and means["pixel"] == pytest.approx(100 * pixel)

    path = write_config(tmp_path, "other", width=48)
    both = replace(settings, clip_backbones={"vit_l_14": f"{path} random", "tiny": "not loaded"})
    found = winclip_tables.backbone_rows(both, encoder, records["mvtec"], "mini_mvtec")
    pd.testing.assert_frame_equal(found[found["variant"] == "backbone=tiny"], alone)
    added = found[found["variant"] == "backbone=vit_l_14"].set_index("task")["mean"]
    other = load_encoder(path, "random", device="cpu")
    for task, run, variant in (("image", zero_shot_classification, "prompt_ens"), ("pixel", zero_shot, "")):
        own = run_experiment(settings, other, "mvtec", run)
        own = own[(own["method"] == "winclip") & (own["variant"] == variant)]
        assert added[task] == pytest.approx(100 * own["auroc"].mean())


# what the paper leaves open, small defects, times


@pytest.fixture(scope="module")
def open_rows(settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    return winclip_tables.open_choice_rows(settings, encoder, "visa", "mini_visa")


def test_left_open(open_rows: pd.DataFrame) -> None:
    both = {"", "temperature=0.01", "temperature=0.07", "normalize_sentences=0", "whole=squash"}
    few = {"layer_norm=1", "aggregate=arithmetic", "fuse=mean", "fuse=none"}
    expected = {("winclip", "image", v) for v in both} | {("winclip", "pixel", v) for v in both}
    expected |= {("winclip_plus", task, v) for task in ("image", "pixel") for v in both | few}
    expected |= {(m, "pixel", "map_size=32") for m in ("winclip", "winclip_plus")}
    expected |= {("winclip_plus", "image", "map_size=32")}
    assert keys_of(open_rows, "method", "task", "variant") == expected
    assert set(open_rows["artifact"]) == {"open"} and set(open_rows["category"]) == {"mean"}
    assert (open_rows["shots"] == (open_rows["method"] == "winclip_plus")).all()


def test_small_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {
        "a": {"label": [0, 1, 1, 1], "area": [0, 0.01, 0.02, 0.3], "auroc": [math.nan, 0.5, 0.7, 0.6]},
        "b": {"label": [1, 0, 1], "area": [0.1, 0, 0.2], "auroc": [0.9, math.nan, 0.95]},
    }
    frames = {
        name: pd.DataFrame({**own, "f1max": own["auroc"], "maximum": 0.5, "kind": "hole"})
        for name, own in images.items()
    }
    monkeypatch.setattr(winclip_tables.experiments, "within_images", lambda category: frames[category.name])
    named = [SimpleNamespace(name=n, dataset=SimpleNamespace(name=d)) for n, d in (("a", "x"), ("b", "y"))]
    row, kept = winclip_tables.small_defects(named)
    expected = spearmanr([0.01, 0.02, 0.3, 0.1, 0.2], [0.5, 0.7, 0.6, 0.9, 0.95]).statistic
    assert len(row) == 1 and row["mean"].item() == pytest.approx(expected)
    names = ["winclip", "suppC", "", "mean", "pixel", 0, "winclip", "", "spearman"]
    assert row[KEYS].iloc[0].tolist() == names
    assert kept[["category", "dataset"]].drop_duplicates().to_numpy().tolist() == [["a", "x"], ["b", "y"]]
    assert len(kept) == 5 and kept.notna().all(axis=None)
    none, images = winclip_tables.small_defects([])
    assert none.columns.tolist() == COLUMNS and sorted(images) == sorted(kept)
    assert none.empty and images.empty


VARIANTS = [
    "",
    "wo_image_scale",
    "wo_mid_scale",
    "wo_small_scale",
    "wo_harmonic",
    "patch_token",
    "image_tiling",
]


def test_times(settings: Settings, encoder: ClipEncoder) -> None:
    found = winclip_costs.time_rows(settings, encoder, "mini_mvtec", repeats=2)
    assert found["variant"].tolist() == VARIANTS and (found["mean"] > 0).all()
    assert set(found["metric"]) == {"time_ms"} and set(found["artifact"]) == {"T8"}
    assert set(found["task"]) == {"pixel"} and set(found["dataset"]) == {"mini_mvtec"}


def test_what_is_timed_are_the_ablations(
    settings: Settings, encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = {}

    def run_once(steps: dict, repeats: int) -> dict[str, float]:
        maps.update({name: step() for name, step in steps.items()})
        return dict.fromkeys(steps, float(repeats))

    monkeypatch.setattr(winclip_costs, "latencies", run_once)
    assert (winclip_costs.time_rows(settings, encoder, "", repeats=3)["mean"] == 3).all()
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    normal, anomalous = encoder.embed_text(["a photo of an object", "a photo of a damaged object"])

    def by(**o):
        return winclip_map(encoder, pixels, normal, anomalous, temperature=0.01, **o)

    expected = {
        "": by(),
        "wo_image_scale": by(image_scale=False),
        "wo_mid_scale": by(scales=(2,)),
        "wo_small_scale": by(scales=(3,)),
        "wo_harmonic": by(aggregate="arithmetic"),
    }
    torch.testing.assert_close({name: maps[name] for name in expected}, expected)
    assert all(maps[name].shape[1:] == encoder.grid for name in ("patch_token", "image_tiling"))
    assert len({float(values.double().mean()) for values in maps.values()}) == 7


# the other paper


def test_rows_of_the_other_paper(settings: Settings, records: dict[str, pd.DataFrame]) -> None:
    tables = {"mvtec": {"A5", "A6", "A7"}, "visa": {"A8", "A9", "A10"}}
    for role, dataset in ROLES.items():
        found = rwda_tables.winclip_rows(records[role], role, dataset, settings.shots)
        assert set(found["paper"]) == {"rwda"} and set(found["task"]) == {"image"}
        single = {"T2"} if role == "mvtec" else set()
        assert set(found["artifact"]) == {"T1", "sec4.3"} | tables[role] | single
        validate(found)
        first = found[found["artifact"] == "T1"]
        few = {(m, "", k) for m in ("winclip", *BASELINES) for k in (1, 2)}
        expected = few | {("winclip", "object_known", 0)}
        extra = {("clip_ac", "", 0), ("clip_ac_prompt_ens", "", 0)}
        assert expected <= keys_of(first, "method", "variant", "shots") <= expected | extra
        by_class = found[found["artifact"].isin(tables[role])]
        assert set(by_class["method"]) == {"winclip"} and set(by_class["category"]) == {*CHOSEN[dataset]}
        reference = found[found["artifact"] == "sec4.3"]
        assert keys_of(reference, "method", "variant") == {("winclip_plus", "score=max_map")}
        assert set(reference["shots"]) == {1, 2}
    single = rwda_tables.winclip_rows(records["mvtec"], "mvtec", "mini_mvtec", [1]).query("artifact == 'T2'")
    frame = records["mvtec"].query("method == 'winclip' and variant == 'prompt_ens'")
    assert set(single["variant"]) == {"object_known;multi_crop=0"}
    assert single.set_index("metric")["mean"]["auroc"] == pytest.approx(100 * frame["auroc"].mean())


@pytest.fixture(scope="module")
def fnns(encoder: ClipEncoder, tmp_path_factory: pytest.TempPathFactory) -> dict:
    rng = np.random.default_rng(0)
    texts = tuple(rng.normal(size=(2, 64, encoder.dim)).astype(np.float32) + np.array([[[-1]], [[1]]]))
    texts = tuple(side.astype(np.float32) for side in texts)
    return rwda_experiments.train_runs(texts, [1, 2], 32, tmp_path_factory.mktemp("fnn"), n_jobs=1, epochs=1)


def test_winclip_plus_with_random_words(
    settings: Settings, encoder: ClipEncoder, fnns: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds 0 and 1 draw references, 1 and 2 train: one run has both."""
    kept, record = {}, Category.record

    def spy(category: Category, values: np.ndarray, *names: str, **where: int) -> dict:
        kept[category.name, where["shots"], where["seed"]] = values
        return record(category, values, *names, **where)

    monkeypatch.setattr(Category, "record", spy)
    named = categories(settings, encoder, "mvtec")
    images = image_embeddings(encoder, named[0].dataset, settings.cache_dir)
    found = rwda_tables.with_random_words(settings, encoder, images, "mvtec", fnns)
    assert keys_of(found, "paper", "artifact", "dataset", "method", "variant", "category") == {
        ("rwda", "sec4.3", "mini_mvtec", "winclip_plus_rwda", "", "mean")
    }
    assert set(found["shots"]) == {1, 2} and found["std"].isna().all()  # not the ablations' 3
    assert {*kept} == {(category.name, k, 1) for category in named for k in (1, 2)}
    for category in named:
        learned = rwda_experiments.fnn_scores(images.select(category=category.name, split="test"), fnns[1])
        for k in (1, 2):
            scores = few_shot_scores(category, [1, 2, 3], ("P", "P+Wm", "P+Wm+Ws"))[k, 1] + learned
            np.testing.assert_allclose(kept[category.name, k, 1], scores)
    row = found[(found["shots"] == 2) & (found["metric"] == "auroc")]
    values = [roc_auc_score(category.test.labels, kept[category.name, 2, 1]) for category in named]
    assert row["mean"].item() == pytest.approx(100 * np.mean(values))


# all tables together


@pytest.fixture(scope="module")
def everything(
    settings: Settings,
    encoder: ClipEncoder,
    records: dict[str, pd.DataFrame],
    open_rows: pd.DataFrame,
    fnns: dict,
) -> pd.DataFrame:
    frames = [open_rows]
    for role, dataset in ROLES.items():
        own, shots = records[role], settings.shots
        frames += [
            *(winclip_tables.comparison_rows(own, role, dataset, task, shots) for task in ("image", "pixel")),
            winclip_tables.classwise_rows(own, role, dataset, shots),
            winclip_tables.ablation_rows(own, role, dataset, settings.ablation_shots),
            rwda_tables.winclip_rows(own, role, dataset, shots),
        ]
    own, named = records["mvtec"], categories(settings, encoder, "mvtec")
    images = image_embeddings(encoder, named[0].dataset, settings.cache_dir)
    frames += [
        winclip_tables.many_shot_rows(own, "mini_mvtec"),
        winclip_tables.patchcore_rows(settings, encoder, own, "mini_mvtec"),
        winclip_tables.backbone_rows(settings, encoder, own, "mini_mvtec"),
        winclip_tables.small_defects(named)[0],
        winclip_costs.time_rows(settings, encoder, "mini_mvtec", repeats=1),
        rwda_tables.with_random_words(settings, encoder, images, "mvtec", fnns),
    ]
    return pd.concat(frames, ignore_index=True)


def test_no_two_rows_have_the_same_keys(everything: pd.DataFrame) -> None:
    assert len(validate(everything, undefined=False)) == len(everything) > 500


def test_every_published_number_of_these_methods_is_met(everything: pd.DataFrame) -> None:
    """A key that is spelt otherwise would leave 'not yet run' in a table, silently."""
    ours = ["winclip", "winclip_plus", "clip_ac", "clip_ac_prompt_ens", "maskclip", "trans_mm", *BASELINES]
    for paper, tables in (("winclip", ["T1", *(f"T{n}" for n in range(3, 9))]), ("rwda", ["T1", "T2"])):
        published = load_published(paper)
        published = published[published["artifact"].isin(tables) & published["method"].isin(ours)]
        published = published[published["shots"].isin([0, 1, 2]) & (published["category"] == "mean")]
        beside = compare(published, everything, roles=ROLES)
        assert set(beside["artifact"]) == {*tables}
        missing = beside.loc[beside["measured"].isna(), KEYS]
        assert missing.empty, missing.to_string()


# nothing measured


def test_without_a_dataset_tables_are_empty(settings: Settings, encoder: ClipEncoder) -> None:
    nothing = without_dataset(settings, encoder)
    assert nothing.empty
    frames = [
        winclip_tables.comparison_rows(nothing, "mvtec", "none", "image", [1]),
        winclip_tables.comparison_rows(nothing, "mvtec", "none", "pixel", [1]),
        winclip_tables.classwise_rows(nothing, "mvtec", "none", [1]),
        winclip_tables.many_shot_rows(nothing, "none"),
        winclip_tables.ablation_rows(nothing, "mvtec", "none", [1]),
        winclip_tables.ablation_rows(nothing, "visa", "none", [1]),
        rwda_tables.winclip_rows(nothing, "mvtec", "none", [1]),
        winclip_tables.backbone_rows(settings, encoder, nothing, "none"),
    ]
    assert all(frame.empty and list(frame.columns) == COLUMNS for frame in frames)
    assert validate(pd.concat(frames)).empty
