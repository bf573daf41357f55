from __future__ import annotations

import pytest

from data_scripts.textile import package_folder, write_textile
from zsad_core.datasets import load_dataset


def test_the_whole_dataset(tmp_path):
    source = package_folder()
    write_textile(source, tmp_path / "textile")
    dataset = load_dataset(tmp_path / "textile")
    assert dataset.categories == ["textile"]
    assert dataset.meta.groupby(["split", "defect"]).size().to_dict() == {
        ("train", "good"): 16,
        ("test", "good"): 984,
        ("test", "local"): 500,
        ("test", "global"): 500,
    }
    assert not dataset.has_masks
    assert dataset.image(0).size == (250, 250)
    assert (tmp_path / "textile/textile/test/global/textile_0007.jpg").read_bytes() == (
        source / "global/textile_0007.jpg"
    ).read_bytes()


def test_seed_chooses_the_references(tmp_path):
    def references(seed: int) -> list[str]:
        write_textile(package_folder(), tmp_path / "t", n_train=3, seed=seed)
        return load_dataset(tmp_path / "t").select(split="train").meta["image"].tolist()

    assert references(0) != references(1)
    (tmp_path / "nominal").mkdir()
    with pytest.raises(ValueError, match="holds 0 .jpg files: expected 1000"):
        write_textile(tmp_path, tmp_path / "out")
