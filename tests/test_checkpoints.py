from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from urllib.error import URLError

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsad_core import checkpoints
from zsad_core.cache import sha256_of
from zsad_core.checkpoints import PINNED, load_weights, locate_weights, read_content

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1, "vocab_size": 100},
}
STRANGER = "ViT-B-16-plus-240"


@pytest.fixture
def clip() -> nn.Module:
    return open_clip.CLIP(**TINY)


@pytest.fixture
def other() -> nn.Module:
    return open_clip.CLIP(**TINY)


def assert_same_weights(actual: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(actual.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["safetensors", "torch", "checkpoint", "several GPUs", "TorchScript"])
def test_every_form_of_file_gives_the_same_weights(
    tmp_path: Path, clip: nn.Module, other: nn.Module, form: str
) -> None:
    path, state = tmp_path / "weights", clip.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "torch":
        torch.save(state, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    elif form == "several GPUs":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    else:
        save_torchscript(clip, path)
    load_weights(other, path, "tiny")
    assert_same_weights(other, clip)


def save_torchscript(clip: nn.Module, path: Path) -> None:
    ids = torch.randint(1, 99, (1, 77))
    inputs = {"encode_image": (torch.randn(1, 3, 16, 16),), "encode_text": (ids,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace_module(clip.eval(), inputs, check_trace=False), path)


def test_half_precision_weights_become_float32(tmp_path: Path, clip: nn.Module, other: nn.Module) -> None:
    clip.load_state_dict({key: tensor.half().float() for key, tensor in clip.state_dict().items()})
    save_file(
        {key: tensor.half() for key, tensor in clip.state_dict().items()}, tmp_path / "half.safetensors"
    )
    load_weights(other, tmp_path / "half.safetensors", "tiny")
    assert_same_weights(other, clip)


def test_weights_of_a_clip_fit_a_clip_with_its_text_tower_apart(tmp_path: Path, clip: nn.Module) -> None:
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    apart = open_clip.CustomTextCLIP(**TINY)
    load_weights(apart, tmp_path / "clip.pt", "tiny")
    ids = torch.randint(1, 99, (2, 77))
    torch.testing.assert_close(apart.eval().encode_text(ids), clip.eval().encode_text(ids))


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path: Path, clip: nn.Module) -> None:
    state = clip.state_dict()
    del state["visual.proj"]
    state["visual.head"] = torch.zeros(1)
    state["ln_final.weight"] = torch.zeros(8)
    save_file(state, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="does not fit tiny") as error:
        load_weights(clip, tmp_path / "foreign.safetensors", "tiny")
    for part in (
        "Missing key(s)",
        '"visual.proj"',
        "Unexpected key(s)",
        '"visual.head"',
        "ln_final.weight",
        "[8]",
    ):
        assert part in str(error.value)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("torchscript", [False, True])
def test_pickled_code_is_never_run(tmp_path: Path, torchscript: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "exploded"
    torch.save({"state_dict": Bomb(marker)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        if torchscript:
            archive.writestr("evil/constants.pkl", b"")
        pickled = archive.read("evil/data.pkl")
    with pytest.raises(ValueError, match="it was not read, because loading it could run code"):
        read_content(path)
    assert not marker.exists()
    pickle.loads(pickled)  # the file is dangerous indeed
    assert marker.exists()


@pytest.mark.parametrize("form", ["safetensors", "torch", "TorchScript"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_off_is_called_so(tmp_path: Path, clip: nn.Module, form: str, part: float) -> None:
    path = tmp_path / "weights"
    if form == "TorchScript":
        save_torchscript(clip, path)
    else:
        (save_file if form == "safetensors" else torch.save)(clip.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match="cut off or damaged|no weights file"):
        read_content(path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"accuracy": 0.9}, tmp_path / "log.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(nn.Identity(), tmp_path / "log.pt", "tiny")


def test_shipped_weights_are_those_that_the_checksum_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    weights, checksum = tmp_path / "zsad-mini.safetensors", tmp_path / "zsad-mini.sha256"
    with pytest.raises(FileNotFoundError, match="zsad-mini.safetensors or zsad-mini.sha256 is missing"):
        locate_weights("zsad-mini", None, False, 0)
    weights.write_bytes(b"abc")
    checksum.write_text(f"{sha256_of(weights)}  zsad-mini.safetensors\n")
    source = locate_weights("zsad-mini", None, False, 0)
    assert (source.path, source.weights_id) == (weights, "zsad-mini@ba7816bf8f01")
    weights.write_bytes(b"abd")
    with pytest.raises(ValueError, match="expected ba7816bf8f01.*restore both"):
        locate_weights("zsad-mini", None, False, 0)


def test_only_zsad_mini_ships() -> None:
    with pytest.raises(ValueError, match="laion400m_e31, laion400m_e32.*only zsad-mini has its own"):
        locate_weights(STRANGER, None, False, 0)


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"abc")
    assert locate_weights(STRANGER, tmp_path / "mine.pt", False, 0).weights_id == "file@ba7816bf8f01"


def test_neither_file_nor_tag() -> None:
    for weights in ("gone.safetensors", "openai"):
        with pytest.raises(ValueError, match=f"{weights}.*neither an existing file nor a .*laion400m_e31"):
            locate_weights(STRANGER, weights, False, 0)


def test_weights_trained_with_quickgelu_are_refused_by_a_plain_architecture(
    tmp_path: Path, clip: nn.Module
) -> None:
    with pytest.raises(ValueError, match="trained with QuickGELU.*use model='ViT-L-14-336-quickgelu'"):
        locate_weights("ViT-L-14-336", "openai", False, 0)
    save_torchscript(clip, tmp_path / "openai.pt")
    with pytest.raises(ValueError, match="OpenAI's weights, which were trained with QuickGELU"):
        locate_weights("ViT-L-14-336", tmp_path / "openai.pt", False, 0)
    assert locate_weights("ViT-L-14-336-quickgelu", tmp_path / "openai.pt", True, 0).path


@pytest.mark.parametrize(("tag", "digits"), [("laion400m_e31", "8fb26589"), ("laion400m_e32", "699c4b84")])
def test_epoch_31_does_not_pass_for_epoch_32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, digits: str
) -> None:
    """Each tag has its own file and checksum, whatever open_clip's table of hub entries says."""
    asked = []

    def download(url: str) -> str:
        asked.append(url)
        (tmp_path / "file.pt").write_bytes(b"another epoch")
        return str(tmp_path / "file.pt")

    monkeypatch.setattr(checkpoints, "download_pretrained_from_url", download)
    with pytest.raises(ValueError, match=f"expected {digits}"):
        locate_weights(STRANGER, tag, False, 0)
    assert asked == [PINNED[STRANGER, tag][0]] and asked[0].endswith(f"{tag}-{digits}.pt")


def test_pinned_addresses_are_open_clips_own() -> None:
    for (model, tag), (url, sha256) in PINNED.items():
        if model in open_clip.list_models():
            assert url == open_clip.get_pretrained_url(model, tag)
        assert sha256 in url and len(sha256) in (8, 64)


def test_without_a_network_the_error_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str) -> str:
        raise URLError("no route to host")

    monkeypatch.setattr(checkpoints, "download_pretrained_from_url", offline)
    with pytest.raises(OSError, match="fetch https://.*ViT-L-14-336px.pt.*pass the file's path"):
        locate_weights("ViT-L-14-336-quickgelu", "openai", True, 0)


def test_a_tag_without_a_pinned_checksum_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.bin").write_bytes(b"abc")
    monkeypatch.setattr(checkpoints, "download_pretrained", lambda config: str(tmp_path / "file.bin"))
    with pytest.warns(UserWarning, match="no checksum is pinned.*ba7816bf8f01cfea"):
        source = locate_weights("ViT-B-16", "laion2b_s34b_b88k", False, 0)
    assert source.weights_id == "laion2b_s34b_b88k@ba7816bf8f01"


def test_config_of_zsad_mini_is_what_the_text_says() -> None:
    config = json.loads((checkpoints.SHIPPED / "zsad-mini.json").read_text())
    model = open_clip.CLIP(**config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_756_161
