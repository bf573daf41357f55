import json
import pickle
import warnings
import zipfile
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import open_clip
import pytest
import torch
from helpers import refused
from safetensors.torch import save_file

from zsad_core import checkpoints
from zsad_core.cache import sha256_of
from zsad_core.checkpoints import PINNED, load_weights, locate_weights, read_config, read_content

VISION = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 100}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
STRANGER = "ViT-B-16-plus-240"


@pytest.fixture
def clip():
    return open_clip.CLIP(**TINY)


FORMS = ["safetensors", "torch", "checkpoint", "several GPUs", "half precision", "TorchScript"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_weights(tmp_path, monkeypatch, clip, form):
    clip.load_state_dict({key: tensor.half().float() for key, tensor in clip.state_dict().items()})
    path, state = tmp_path / "weights", clip.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "half precision":
        save_file({key: tensor.half() for key, tensor in state.items()}, path)
    elif form == "TorchScript":
        save_torchscript(clip, path)
        refused("could run code.*unknown SHA-256", read_content, path)
        monkeypatch.setitem(PINNED, ("tiny", "openai"), ("", sha256_of(path)))
    else:
        several = {f"module.{key}": tensor for key, tensor in state.items()}
        content = {"torch": state, "checkpoint": {"epoch": 3, "state_dict": state}}
        torch.save(content.get(form, {"state_dict": several}), path)
    other = open_clip.CLIP(**TINY)
    load_weights(other, path, "tiny")
    torch.testing.assert_close(other.state_dict(), state, rtol=0, atol=0)


def save_torchscript(clip, path):
    ids = torch.randint(1, 99, (1, 77))
    inputs = {"encode_image": (torch.randn(1, 3, 16, 16),), "encode_text": (ids,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace_module(clip.eval(), inputs, check_trace=False), path)


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path, clip):
    state = clip.state_dict()
    del state["visual.proj"]
    state["visual.head"] = torch.zeros(1)
    state["ln_final.weight"] = torch.zeros(8)
    save_file(state, tmp_path / "foreign.safetensors")
    error = refused("does not fit tiny", load_weights, clip, tmp_path / "foreign.safetensors", "tiny")
    parts = "Missing key(s)", '"visual.proj"', "Unexpected key(s)", '"visual.head"', "ln_final.weight", "[8]"
    assert all(part in str(error) for part in parts)
    torch.save({"accuracy": 0.9}, tmp_path / "log.pt")
    refused("holds no state dict", load_weights, clip, tmp_path / "log.pt", "tiny")
    whole = (tmp_path / "foreign.safetensors").read_bytes(), (tmp_path / "log.pt").read_bytes()
    for content in (b"", *(file[: int(part * len(file))] for file in whole for part in (0.5, 0.99))):
        (tmp_path / "weights").write_bytes(content)
        refused("cut off or damaged|no weights file", read_content, tmp_path / "weights")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("torchscript", [False, True])
def test_pickled_code_is_never_run(tmp_path, torchscript):
    path, marker = tmp_path / "evil.pt", tmp_path / "exploded"
    torch.save({"state_dict": Bomb(marker)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        if torchscript:
            archive.writestr("evil/constants.pkl", b"")
        pickled = archive.read("evil/data.pkl")
    refused("could run code", read_content, path)
    assert not marker.exists()
    pickle.loads(pickled)  # the file is dangerous indeed
    assert marker.exists()


def test_shipped_weights_are_those_that_the_checksum_names(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    weights, checksum = tmp_path / "zsad-mini.safetensors", tmp_path / "zsad-mini.sha256"
    refused("missing", locate_weights, "zsad-mini", None, False, 0, error=FileNotFoundError)
    weights.write_bytes(b"abc")
    checksum.write_text(f"{sha256_of(weights)}  zsad-mini.safetensors\n")
    source = locate_weights("zsad-mini", None, False, 0)
    assert (source.path, source.weights_id) == (weights, "zsad-mini@ba7816bf8f01")
    weights.write_bytes(b"abd")
    refused("expected ba7816bf8f01", locate_weights, "zsad-mini", None, False, 0)


def test_weights_trained_with_quickgelu_are_refused_by_a_plain_architecture(tmp_path, clip):
    refused("use model='ViT-L-14-336-quickgelu'", locate_weights, "ViT-L-14-336", "openai", False, 0)
    save_torchscript(clip, tmp_path / "openai.pt")
    refused("QuickGELU", locate_weights, "ViT-L-14-336", tmp_path / "openai.pt", False, 0)
    assert locate_weights("ViT-L-14-336-quickgelu", tmp_path / "openai.pt", True, 0).path


def test_weights_that_are_not_the_pinned_or_the_known_ones(tmp_path, monkeypatch):
    (tmp_path / "file.pt").write_bytes(b"another epoch")
    download = Mock(return_value=str(tmp_path / "file.pt"))
    monkeypatch.setattr(checkpoints, "download_pretrained_from_url", download)
    for tag, digits in (("laion400m_e31", "8fb26589"), ("laion400m_e32", "699c4b84")):
        refused(f"expected {digits}", locate_weights, STRANGER, tag, False, 0)
        (requested,) = download.call_args.args
        assert requested == PINNED[STRANGER, tag][0] and requested.endswith(f"{tag}-{digits}.pt")
    download.side_effect = URLError("no route")
    message = "fetch https://.*pt.*pass the file's path"
    refused(message, locate_weights, STRANGER, tag, False, 0, error=OSError)
    for weights in ("gone.safetensors", "openai", None):
        refused(f"{weights}.*laion400m_e31", locate_weights, STRANGER, weights, False, 0)
    (tmp_path / "mine.pt").write_bytes(b"abc")
    assert locate_weights(STRANGER, tmp_path / "mine.pt", False, 0).weights_id == "file@ba7816bf8f01"


def test_pinned_addresses_are_open_clips_own():
    for (model, tag), (url, sha256) in PINNED.items():
        if model in open_clip.list_models():
            assert url == open_clip.get_pretrained_url(model, tag)
        assert sha256 in url and len(sha256) in (8, 64)


def test_a_config_file_is_named_by_its_content_and_others_are_refused(tmp_path):
    path, config = tmp_path / "tiny.json", {"embed_dim": 16, "vision_cfg": {"layers": 1}, "text_cfg": {}}
    dark = {"model_cfg": config, "preprocess_cfg": {"mean": [0, 0, 0]}}
    ids = set()
    for content, dim in ((config, 16), (dark, 16), (config | {"embed_dim": 8}, 8)):
        path.write_text(json.dumps(content))
        name, found, preprocess = read_config(path)
        assert found["embed_dim"] == dim and preprocess == content.get("preprocess_cfg", {})
        ids.add(name)
    assert len(ids) == 3  # other pixels, other names: caches are keyed with them
    for content in ("not json", "[]", '{"embed_dim": 16}'):
        (tmp_path / "wrong.json").write_text(content)
        refused("no open_clip model config", read_config, tmp_path / "wrong.json")
    refused("gone.json", read_config, tmp_path / "gone.json", error=FileNotFoundError)
    refused("such as.*ViT-B-16-plus-240", read_config, "ViT-B-16-plus-24")
    for name in ("convnext_base", "coca_ViT-B-32"):
        refused(f"{name} is no CLIP", read_config, name)
