"""The features computed by category are all that the experiments need."""

import numpy as np
import pytest
from PIL import Image

from data_scripts.prepare import prepared_folder
from zsad_core import image_features
from zsad_papers import precompute
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.common import data
from zsad_papers.common.settings import read_settings
from zsad_papers.winclip import tables as winclip_tables

PLACES = {"mvtec": "toys/metal_nut", "visa": "toys/electrical commutators"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two categories of 2 images to train and 4 to test; those of the second are not square."""
    folder, rng = tmp_path_factory.mktemp("toys"), np.random.default_rng(0)
    with prepared_folder(folder / "toys") as out:
        for place, (height, width) in zip(PLACES.values(), ((36, 36), (36, 60)), strict=True):
            for i, (split, defect) in enumerate(
                [("train", "good")] * 2 + [("test", "good"), ("test", "hole")] * 2
            ):
                pixels, mask = rng.integers(0, 256, (height, width, 3), np.uint8), None
                if defect == "hole":
                    mask = np.zeros((height, width), np.uint8)
                    mask[4:20, 6:30] = 1
                    pixels[mask > 0] //= 4
                where = {"category": place.split("/")[1], "split": split, "defect": defect, "mask": mask}
                out.add(Image.fromarray(pixels), name=f"{i}.png", **where)
    few = {"shots": [1], "ablation_shots": [2], "reference_seeds": 1, "prompt_epochs": 1, "device": "cpu"}
    folders = {"data_dir": str(folder), "cache_dir": str(folder / "cache")}
    return read_settings({"datasets": PLACES, **folders, **few})


def test_studies_find_all_features(settings, encoder, monkeypatch):
    for kind in precompute.KINDS:
        lines = {precompute.compute(settings, kind, *place.split("/")) for place in PLACES.values()}
        assert lines == {"toys: 6 images"}

    def fail(*_, **__):
        return pytest.fail("an image was read again")

    monkeypatch.setattr(image_features, "load_batch", fail)
    records = {role: winclip_tables.all_records(settings, encoder, role) for role in PLACES}
    assert {"winclip", "winclip_plus", "patchcore", "trans_mm"} <= set(records["visa"]["method"])
    assert len(winclip_tables.open_choice_rows(settings, encoder, "visa", PLACES["visa"]))
    assert len(winclip_tables.patchcore_rows(settings, encoder, records["mvtec"], PLACES["mvtec"]))
    large = data.encoder_of(settings, "prompt_")
    variants = ["baselines", "", "attention=qq+kk+vv", "N=3", "coop", "vand"]
    found = anomalyclip_experiments.run_experiment(settings, large, "mvtec", variants)
    assert {"clip", "clip_ac", "coop", "anomalyclip", "vand"} == set(found["method"])
