"""open_clip's architectures: read from a name or a config file, checked, built."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from zsad_core.cache import content_key
from zsad_core.checkpoints import SHIPPED


def read_config(model: str | Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(model_id, open_clip model config, preprocessing that a config file asks for).

    model: "zsad-mini", an architecture of open_clip, or the path of a config file (.json), either the plain
        model config or one with "model_cfg" and "preprocess_cfg" as on the hub. A file's model_id carries a
        hash of it, and of preprocessing other than open_clip's default.
    Raises FileNotFoundError for a missing file and ValueError for anything but a Vision Transformer or ResNet
    of open_clip.
    """
    if model == "zsad-mini":
        model_id, (config, preprocess) = "zsad-mini", _read_file(SHIPPED / "zsad-mini.json")
    elif Path(model).suffix == ".json":
        config, preprocess = _read_file(Path(model))
        parts = {"config": config}
        if unusual := _unusual(preprocess):  # left out when empty: such names are older than this part
            parts["preprocess"] = unusual
        model_id = f"{Path(model).stem}@{content_key(**parts)[:12]}"
    else:
        model_id, config, preprocess = str(model), open_clip.get_model_config(str(model)), {}
        if config is None:
            close = difflib.get_close_matches(model_id, open_clip.list_models(), n=3, cutoff=0.5)
            raise ValueError(
                f"unknown model {model_id!r}; expected 'zsad-mini', the path of a .json config, or an "
                f"architecture of open_clip{', such as ' + ', '.join(close) if close else ''}"
            )
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        raise ValueError(
            f"the image tower of {model_id} is not open_clip's Vision Transformer or ResNet; choose an "
            "architecture such as ViT-B-16-plus-240, ViT-L-14-336-quickgelu or RN50-quickgelu"
        )
    return model_id, config, preprocess


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"model config {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content.get("model_cfg", content)
        _ = config["embed_dim"], config["vision_cfg"], config["text_cfg"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no open_clip model config with embed_dim, vision_cfg and text_cfg ({error!r})"
        ) from error
    return config, content.get("preprocess_cfg", {})


def _unusual(preprocess: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing that is not open_clip's default. `size` never counts: the architecture decides it."""
    usual = json.loads(json.dumps(asdict(PreprocessCfg())))  # tuples as lists
    kept = usual.keys() - {"size"}
    return {k: v for k, v in preprocess.items() if k in kept and v is not None and v != usual[k]}


def build(config: dict[str, Any]) -> nn.Module:
    """The network of an open_clip config with fresh weights, drawn from torch's global random state."""
    config = dict(config)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "multimodal_cfg" in config:
        return open_clip.CoCa(**config)
    return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config)


def resize_grid(
    model: nn.Module, image_size: int, *, mode: str = "bilinear", antialias: bool = False
) -> None:
    """Let an open_clip model take square images of another size: resizes its position embeddings in place.

    image_size: edge in pixels, a multiple of the patch edge. The class token's position stays.
    mode, antialias: of the resizing. AnomalyCLIP's paper says nothing; the defaults are its code's, which the
        prompts that its authors released belong to. VAND's code takes "bicubic" with antialiasing.
    """
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.positional_embedding.ndim != 2:
        raise ValueError(
            f"image_size={image_size}: only a Vision Transformer with learned positions takes images of "
            "another size; leave image_size out"
        )
    patch = visual.patch_size[0]
    if image_size < patch or image_size % patch:
        raise ValueError(f"image_size={image_size}: expected a multiple of the patch edge, {patch} pixels")
    positions, (rows, columns) = visual.positional_embedding.detach(), visual.grid_size
    grid = positions[1:].T.reshape(1, -1, rows, columns)  # (1, width, rows, columns)
    size = (image_size // patch, image_size // patch)
    options = {} if mode == "nearest" else {"align_corners": False, "antialias": antialias}
    grid = F.interpolate(grid, size, mode=mode, **options)
    resized = torch.cat([positions[:1], grid.flatten(2)[0].T])  # (1 + patches, width)
    visual.positional_embedding = nn.Parameter(resized, requires_grad=False)
    visual.image_size, visual.grid_size = (image_size, image_size), size


def causal_text_tower(model: nn.Module, tokenizer: Any) -> nn.Module | None:
    """The module that holds the text tower's parts, if tokens after the end token cannot matter; else None.

    They cannot where every token sees only those before it, and the embedding is read at the end token. CoCa
    appends a class token, some towers see both ways, and those of other libraries are not looked into.
    """
    tower = getattr(model, "text", model)
    if isinstance(tower, open_clip.CLIP):
        pool, end_id, class_token = tower.text_pool_type, tower.text_eos_id, None
    elif isinstance(tower, TextTransformer):
        pool, end_id, class_token = tower.pool_type, tower.eos_id, tower.cls_emb
    else:
        return None
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return None
    end = tokenizer.eot_token_id
    if pool == "argmax":
        reads_end = end == max(tokenizer.all_special_ids)
    else:
        reads_end = pool == "eos" and end_id == end
    return tower if reads_end and class_token is None and tower.attn_mask is not None else None
