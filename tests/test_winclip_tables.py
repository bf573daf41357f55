from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from zsad_core.windows import winclip_map
from zsad_papers.common.results import FULL_SHOT
from zsad_papers.common.settings import read_settings
from zsad_papers.rwda import tables as rwda_tables
from zsad_papers.winclip import costs as winclip_costs
from zsad_papers.winclip import figures as winclip_figures
from zsad_papers.winclip import tables as winclip_tables

# Each row of a table is the mean over the categories of one kind of record.
WINDOWS = ("wo_image_scale", "wo_mid_scale", "wo_small_scale", "wo_harmonic", "patch_token", "image_tiling")
LANGUAGE = ("one_class", "two_class", "state_ens", "prompt_ens", "multi_crop", "", "specific_states")
LANGUAGE += ("whole=center_crop", "whole=squash", "defect=flip", "temperature=0.01")
MADE = [("image", "winclip", variant, 0) for variant in LANGUAGE]
MADE += [("pixel", "winclip", variant, 0) for variant in ("", *WINDOWS)]
MADE += [("image", "clip_ac", "", 0), ("pixel", "maskclip", "", 0)]
for k in (1, 2, 4):
    plus = ("score=max_map", "score=ascore0", "score=ascore0+max_map", "defect=flip;score=max_map")
    MADE += [("image", "winclip_plus", variant, k) for variant in plus]
    MADE += [("pixel", "winclip_plus", f"maps={name}", k) for name in ("P", "P+Wm", "P+Wm+Ws")]
    others = ("padim", "patchcore", "patchcore_last")
    MADE += [(task, method, "", k) for task in ("image", "pixel") for method in others]
MADE += [("image", "patchcore", "", FULL_SHOT)]
# A row by artifact, task, shots, method and variant, and the method and variant of the record it is made of.
NAN = float("nan")
ROWS = pd.read_csv(Path(__file__).with_name("winclip_rows.csv"), keep_default_na=False)


@pytest.fixture(scope="module")
def records():
    """A record of each kind in the categories a and b, each with an AUROC of its own."""
    columns = ["task", "method", "variant", "shots"]
    frame = pd.DataFrame(MADE, columns=columns).assign(seed=0, auroc=np.arange(len(MADE)) / 1000)
    second = frame.assign(category="b", auroc=frame["auroc"] + 0.2)
    return pd.concat([frame.assign(category="a"), second])


def check_rows(found, tables):
    own = found[(found["category"] == "mean") & (found["metric"] == "auroc")]
    means = own.set_index(["artifact", "task", "method", "variant", "shots"])["mean"]
    assert means.index.is_unique
    for row in ROWS[ROWS["tables"] == tables].itertuples():
        record = MADE.index((row.task, row.of_method, row.of_variant, row.shots))
        mean = means[row.artifact, row.task, row.method, row.variant, row.shots]
        assert mean == pytest.approx(record / 10 + 10), row


def test_rows_are_made_of_the_records_that_they_are_named_for(records):
    tiny = SimpleNamespace(model_id="tiny@0123")
    none = SimpleNamespace(clip_backbones={})
    frames = [
        *(winclip_tables.comparison_rows(records, "toys", task, [1, 2]) for task in ("image", "pixel")),
        winclip_tables.classwise_rows(records, "mvtec", "toys", [1, 2]),
        winclip_tables.many_shot_rows(records, "toys"),
        winclip_tables.ablation_rows(records, "mvtec", "toys", [1, 2, 4]),
        winclip_tables.backbone_rows(none, tiny, records, "toys"),
    ]
    found = pd.concat(frames, ignore_index=True)
    check_rows(found, "mvtec")
    shots = found.groupby("artifact")["shots"].agg(lambda own: sorted(set(own))).to_dict()
    assert shots["T1"] == shots["T10"] == [0, 1, 2] and shots["T2"] == sorted([0, 1, 4, FULL_SHOT])
    assert set(found.query("artifact == 'sec4.3'")["category"]) == {"a", "b", "mean"}
    check_rows(winclip_tables.ablation_rows(records, "visa", "toys", [1]), "visa")
    check_rows(rwda_tables.winclip_rows(records, "mvtec", "toys", [1, 2]), "rwda")
    moved = records["auroc"] + records["category"].map({"a": 0.1, "b": -0.1})  # two draws that cancel
    two = pd.concat([records, records.assign(seed=1, auroc=moved)])
    frames = [
        winclip_tables.comparison_rows(two, "toys", "pixel", [1, 2]),
        winclip_tables.classwise_rows(two, "mvtec", "toys", [1, 2]).query("category == 'mean'"),
        rwda_tables.winclip_rows(two, "mvtec", "toys", [1, 2]).query("artifact == 'T1'"),
    ]
    assert pd.concat(frames)["std"].to_numpy() == pytest.approx(50**0.5)  # of the categories, as printed
    assert winclip_tables.many_shot_rows(two, "toys")["std"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_what_is_timed_are_the_ablations(small_clip, monkeypatch):
    encoder, settings, maps = small_clip(pixels=[32, 24], layers=2), read_settings({"device": "cpu"}), {}

    def run_once(steps, repeats):
        maps.update({name: step() for name, step in steps.items()})
        return dict.fromkeys(steps, float(repeats))

    monkeypatch.setattr(winclip_costs, "latencies", run_once)
    assert (winclip_costs.time_rows(settings, encoder, "", repeats=3)["mean"] == 3).all()
    pixels = torch.randn(1, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    normal, anomalous = encoder.embed_text(["a photo of an object", "a photo of a damaged object"])

    def by(**o):
        return winclip_map(encoder, pixels, normal, anomalous, temperature=0.01, **o)

    expected = {"": by(), "wo_image_scale": by(image_scale=False), "wo_mid_scale": by(scales=(2,))}
    expected |= {"wo_small_scale": by(scales=(3,)), "wo_harmonic": by(aggregate="arithmetic")}
    torch.testing.assert_close({name: maps[name] for name in expected}, expected)
    assert maps[""].shape == (1, 32, 24)
    assert all(maps[name].shape[1:] == encoder.grid for name in ("patch_token", "image_tiling"))
    assert (maps["patch_token"] != maps["image_tiling"]).any()


def described(*lines):
    """Images of a category: kind of defect, its area, and what its map is like."""
    frame = pd.DataFrame(lines, columns=["kind", "area", "auroc", "f1max", "maximum"])
    return frame.assign(label=(frame["kind"] != "good").astype(int))


def test_failures_by_rule(monkeypatch):
    first = described(
        ("good", 0.0, NAN, NAN, 0.2),
        ("good", 0.0, NAN, NAN, 0.8),
        ("bent_wire", 0.20, 0.6, 0.5, 0.3),
        ("missing part", 0.20, 0.5, 0.5, 0.3),
        ("hole", 0.001, 0.9, 0.6, 0.3),
        ("scratch", 0.20, 0.1, 0.5, 0.3),
        ("scratch", 0.20, 0.95, 0.3, 0.99),
        ("scratch", 0.20, 0.96, 0.2, 0.3),
    )
    second = described(
        ("good", 0.0, NAN, NAN, 0.9),
        ("misplaced", 0.20, 0.7, 0.5, 0.3),
        ("hole", 0.002, 0.3, 0.5, 0.3),
        ("hole", 0.20, 0.97, 0.25, 1.0),
        ("hole", 0.20, 0.98, 0.9, 0.3),
    )
    third = described(("good", 0.0, NAN, NAN, 0.5), ("scratch", 0.20, 0.4, 0.5, 0.3))
    own = {"first": first, "second": second, "third": third}
    monkeypatch.setattr(winclip_figures, "within_images", lambda category: own[category.name])
    named = [SimpleNamespace(name=name) for name in own]
    chosen = winclip_figures.failures(named, 3)
    assert {group: [(category.name, image) for category, image in own] for group, own in chosen.items()} == {
        "(a) arrangement": [("first", 3), ("second", 1)],
        "(b) tiny defects": [("second", 2), ("first", 4)],  # two of the eleven are that small
        "(c) no defect": [("second", 0), ("first", 1), ("third", 0)],
        "(d) around the defect": [("first", 7), ("second", 3)],
    }
    assert all(len(chosen) == 1 for chosen in winclip_figures.failures(named, 1).values())
