"""What anomalib's WinCLIP gives for a tiny CLIP, as numbers: writes tests/golden/winclip.safetensors.

It needs anomalib (`pip install -e '.[parity]'`): `python -m benchmarks.make_parity` in the checkout. The
weights are drawn by numpy's RandomState, whose stream does not change between versions.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from zsad_core.encoders import ClipEncoder, load_encoder

FILE = Path(__file__).parents[1] / "tests" / "golden" / "winclip.safetensors"
OBJECT, SIZES, SHOTS = "bottle", (2, 3), 2


def tiny_encoder(folder: str | Path) -> ClipEncoder:
    """A CLIP of 4 x 4 patches with weights of its own everywhere; its config is written to the folder."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
    text = {"width": 32, "heads": 2, "layers": 2}
    path = Path(folder) / "parity.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    encoder, draw = load_encoder(path, "random", device="cpu"), np.random.RandomState(0)
    for name, values in sorted(encoder.model.named_parameters()):
        if values.ndim:
            around = float(values.ndim == 1 and name.endswith("weight"))
            scale = 0.3 if values.ndim < 3 else 0.1
            drawn = around + scale * draw.standard_normal(tuple(values.shape))
            values.copy_(torch.from_numpy(drawn))
    return encoder


def pixels_of(n: int, seed: int) -> Tensor:
    drawn = np.random.RandomState(seed).standard_normal((n, 3, 32, 32))
    return torch.from_numpy(drawn).float()


def main() -> None:
    from anomalib.models.image.winclip.prompting import TEMPLATES
    from anomalib.models.image.winclip.utils import harmonic_aggregation, visual_association_score

    from benchmarks.anomalib_winclip import anomalib_model

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        encoder, pixels = tiny_encoder(folder), pixels_of(3, seed=1)
        zero_shot = anomalib_model(encoder, OBJECT)
        few_shot = anomalib_model(encoder, OBJECT, pixels_of(SHOTS, seed=2))
        image, windows, tokens = few_shot.encode_image(pixels)
        language, both = zero_shot(pixels), few_shot(pixels)
        found = {"image": image, "tokens": tokens, "texts": zero_shot.text_embeddings}
        found |= {"scores": language.pred_score, "maps": language.anomaly_map}
        found |= {"plus_scores": both.pred_score, "plus_maps": both.anomaly_map}
        found["P"] = visual_association_score(tokens, few_shot.patch_embeddings).unflatten(1, encoder.grid)
        parts = zip(SIZES, windows, few_shot.visual_embeddings, few_shot.masks, strict=True)
        for size, values, memory, masks in parts:
            distances = visual_association_score(values, memory)
            found |= {
                f"windows/{size}": values,
                f"W{size}": harmonic_aggregation(distances, encoder.grid, masks),
            }
    content = {name: values.float().contiguous() for name, values in found.items()}
    save_file(content, FILE, {"templates": json.dumps(list(TEMPLATES))})


if __name__ == "__main__":
    main()
