from __future__ import annotations

import json
from pathlib import Path

import pytest
from open_clip import OPENAI_DATASET_MEAN

from zsad_core.checkpoints import read_config

CONFIG = {"embed_dim": 16, "vision_cfg": {"layers": 1}, "text_cfg": {}}


def test_a_config_file_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    usual = {"size": 224, "mean": list(OPENAI_DATASET_MEAN), "interpolation": "bicubic", "std": None}
    contents = {
        "plain": CONFIG,
        "usual": {"model_cfg": CONFIG, "preprocess_cfg": usual},
        "mean": {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0, 0, 0]}},
        "resize": {"model_cfg": CONFIG, "preprocess_cfg": usual | {"resize_mode": "squash"}},
        "smaller": CONFIG | {"embed_dim": 8},
    }
    ids = {}
    for name, content in contents.items():
        path.write_text(json.dumps(content))
        ids[name], config, preprocess = read_config(path)
        assert config["embed_dim"] == (8 if name == "smaller" else 16)
        assert preprocess == content.get("preprocess_cfg", {})
    assert len(set(ids.values())) == 5  # other pixels, other names: caches are keyed with them


@pytest.mark.parametrize("content", ["not json", "[]", '{"embed_dim": 16}'])
def test_a_file_that_is_no_config(tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ValueError, match="wrong.json is no open_clip model config"):
        read_config(tmp_path / "wrong.json")
    with pytest.raises(FileNotFoundError, match="gone.json does not exist"):
        read_config(tmp_path / "gone.json")


def test_an_unknown_name_gets_suggestions() -> None:
    with pytest.raises(ValueError, match="unknown model 'ViT-B-16-plus-24'.*such as") as error:
        read_config("ViT-B-16-plus-24")
    assert "ViT-B-16-plus-240" in str(error.value)


@pytest.mark.parametrize("name", ["convnext_base", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_image_towers_that_are_no_vision_transformer_of_open_clip(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is no CLIP with open_clip's Vision Transformer"):
        read_config(name)
