"""WinCLIP and WinCLIP+ beside an independent implementation, anomalib's, with the same weights.

anomalib differs from this project's defaults in a few places that the paper leaves open, or that it fills in
another way. Each has a named option here; with all of them set the two agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.prompts import compositional_ensemble
from zsad_core.references import Memory, reference_maps, winclip_plus
from zsad_core.scores import prompt_score
from zsad_core.vit_windows import MultiScaleEmbeddings
from zsad_core.windows import upsample, winclip_map, zero_shot_map

if TYPE_CHECKING:  # anomalib takes seconds to import: only when these tests run
    from anomalib.models.image.winclip.torch_model import WinClipModel

OBJECT = "bottle"
SIZES = (2, 3)
SHOTS = 2
TIGHT = {"atol": 1e-5, "rtol": 1e-5}
"""Wanted are 1e-4; this is what rounding in float32 leaves, with some room."""

OUR_DEFAULTS = {"temperature": 0.01, "templates": None, "normalize_sentences": True, "final_norm": False}


@dataclass(frozen=True)
class Found:
    """What WinCLIP and WinCLIP+ say of some images: scores (n,), maps (n, H, W)."""

    scores: Tensor
    maps: Tensor
    plus_scores: Tensor
    plus_maps: Tensor


@pytest.fixture(scope="module", autouse=True)
def anomalib_is_there() -> None:
    pytest.importorskip(
        "anomalib.models.image.winclip",
        reason="no independent WinCLIP to compare with: pip install -e '.[parity]' brings anomalib",
        exc_type=ImportError,
    )


@pytest.fixture(scope="module")
def as_anomalib() -> dict[str, Any]:
    """This project's options with which it does what anomalib does."""
    from anomalib.models.image.winclip.prompting import TEMPLATES

    return {
        "temperature": 0.07,
        "templates": TEMPLATES,  # 21 instead of the paper's 22, one of them twice
        "normalize_sentences": False,  # the mean of raw text embeddings
        "final_norm": True,  # patch tokens after the last layer norm
        "fuse": "mean",
    }


@pytest.fixture(scope="module", params=["random", None], ids=["random weights", "trained weights"])
def encoder(request: pytest.FixtureRequest) -> ClipEncoder:
    """zsad-mini; trained weights spread the scores wider, so agreement says more."""
    return load_encoder("zsad-mini", request.param, device="cpu")


@pytest.fixture(scope="module")
def pixels(encoder: ClipEncoder) -> Tensor:
    return pixels_of(encoder, 3, seed=1)


@pytest.fixture(scope="module")
def references(encoder: ClipEncoder) -> Tensor:
    return pixels_of(encoder, SHOTS, seed=2)


@pytest.fixture(scope="module")
def zero_shot(encoder: ClipEncoder) -> WinClipModel:
    return anomalib_model(encoder, OBJECT)


@pytest.fixture(scope="module")
def few_shot(encoder: ClipEncoder, references: Tensor) -> WinClipModel:
    return anomalib_model(encoder, OBJECT, references)


def anomalib_model(*arguments: Any, **options: Any) -> WinClipModel:
    from benchmarks.anomalib_winclip import anomalib_model as build

    return build(*arguments, **options)


def pixels_of(encoder: ClipEncoder, n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, *encoder.image_size, generator=torch.Generator().manual_seed(seed))


def embed(encoder: ClipEncoder, pixels: Tensor) -> MultiScaleEmbeddings:
    """As anomalib's `encode_image`: whole image, windows, patch tokens of the last block."""
    return encoder.embed_scales(pixels, SIZES, layers=(encoder.depth,))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def patch_tokens(encoder: ClipEncoder, scales: MultiScaleEmbeddings, final_norm: bool) -> Tensor:
    tokens = scales.layers[encoder.depth]  # (n, patches, width), as they leave the block
    return encoder.model.visual.ln_post(tokens) if final_norm else tokens


def texts_of(
    encoder: ClipEncoder, templates: Sequence[str] | None, normalize_sentences: bool
) -> tuple[Tensor, Tensor]:
    """Both sides as scores take them: (k, d), or the mean of raw embeddings (d,)."""
    sides = compositional_ensemble(OBJECT, templates=templates)
    if normalize_sentences:
        return tuple(encoder.embed_text(side) for side in sides)
    return tuple(encoder.embed_text(side, normalize=False).mean(0) for side in sides)


def memory_of(encoder: ClipEncoder, references: Tensor, final_norm: bool) -> Memory:
    scales = embed(encoder, references)
    windows = {size: values.flatten(0, 1) for size, values in scales.windows.items()}
    return Memory(patch_tokens(encoder, scales, final_norm).flatten(0, 1), windows)


def ours(encoder: ClipEncoder, pixels: Tensor, references: Tensor, options: Mapping[str, Any]) -> Found:
    """WinCLIP and WinCLIP+ with the options named as in `as_anomalib`."""
    scales, temperature = embed(encoder, pixels), options["temperature"]
    texts = texts_of(encoder, options["templates"], options["normalize_sentences"])
    scores = prompt_score(scales.image, *texts, temperature)
    maps = zero_shot_map(scales.image, scales.windows, encoder.grid, *texts, temperature=temperature)
    memory = memory_of(encoder, references, options["final_norm"])
    tokens = patch_tokens(encoder, scales, options["final_norm"])
    found = reference_maps(tokens, scales.windows, memory, encoder.grid)
    plus_scores, plus_maps = winclip_plus(scores, maps, list(found.values()), fuse=options["fuse"])
    size = encoder.image_size
    return Found(scores, upsample(maps, size), plus_scores, upsample(plus_maps, size))


def theirs(zero_shot: WinClipModel, few_shot: WinClipModel, pixels: Tensor) -> Found:
    language, both = zero_shot(pixels), few_shot(pixels)
    return Found(language.pred_score, language.anomaly_map, both.pred_score, both.anomaly_map)


def largest_differences(one: Found, other: Found) -> dict[str, float]:
    return {name: (getattr(one, name) - value).abs().max().item() for name, value in vars(other).items()}


def test_embeddings(encoder: ClipEncoder, pixels: Tensor, zero_shot: WinClipModel) -> None:
    """Whole image and windows as unit rows, and patch tokens."""
    with torch.no_grad():
        image, windows, tokens = zero_shot.encode_image(pixels)
    scales = embed(encoder, pixels)
    assert_close(scales.image, unit(image), **TIGHT)
    for size, expected in zip(SIZES, windows, strict=True):
        assert_close(scales.windows[size], unit(expected), **TIGHT)
        # which says something, for windows and images have embeddings of their own
        assert expected.std(0).mean() > 0.01 and expected.std(1).mean() > 0.01
    assert_close(patch_tokens(encoder, scales, final_norm=True), tokens, **TIGHT)


def test_texts(encoder: ClipEncoder, zero_shot: WinClipModel, as_anomalib: dict[str, Any]) -> None:
    texts = texts_of(encoder, as_anomalib["templates"], as_anomalib["normalize_sentences"])
    assert_close(torch.stack(texts), zero_shot.text_embeddings, **TIGHT)


def test_zero_shot_map_from_images(
    encoder: ClipEncoder, pixels: Tensor, zero_shot: WinClipModel, as_anomalib: dict[str, Any]
) -> None:
    """The way that a user takes: `winclip_map` from pixels to pixels."""
    texts = texts_of(encoder, as_anomalib["templates"], as_anomalib["normalize_sentences"])
    maps = winclip_map(encoder, pixels, *texts, temperature=as_anomalib["temperature"])
    assert_close(maps, zero_shot(pixels).anomaly_map, **TIGHT)


def test_reference_maps(
    encoder: ClipEncoder, pixels: Tensor, references: Tensor, few_shot: WinClipModel
) -> None:
    """M^P and M^W of both sizes one by one, and their mean."""
    from anomalib.models.image.winclip.utils import harmonic_aggregation, visual_association_score

    with torch.no_grad():
        _, windows, tokens = few_shot.encode_image(pixels)
        together = few_shot._compute_few_shot_scores(tokens, windows)
    expected = {"P": visual_association_score(tokens, few_shot.patch_embeddings).unflatten(1, encoder.grid)}
    for size, values, memory, masks in zip(
        SIZES, windows, few_shot.visual_embeddings, few_shot.masks, strict=True
    ):
        distances = visual_association_score(values, memory)
        expected[f"W{size}"] = harmonic_aggregation(distances, encoder.grid, masks)
    scales = embed(encoder, pixels)
    memory = memory_of(encoder, references, final_norm=True)
    found = reference_maps(patch_tokens(encoder, scales, True), scales.windows, memory, encoder.grid)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert_close(values.float(), expected[name], **TIGHT)
        assert expected[name].std() > 1e-3
    assert_close(torch.stack(list(found.values())).mean(0).float(), together, **TIGHT)


def test_scores_and_maps(
    encoder: ClipEncoder,
    pixels: Tensor,
    references: Tensor,
    zero_shot: WinClipModel,
    few_shot: WinClipModel,
    as_anomalib: dict[str, Any],
) -> None:
    found, expected = ours(encoder, pixels, references, as_anomalib), theirs(zero_shot, few_shot, pixels)
    for name, values in vars(expected).items():
        assert_close(getattr(found, name).float(), values, **TIGHT, msg=lambda text, n=name: f"{n}: {text}")
        assert values.std() > 1e-3, f"{name} are constant: agreement proves nothing"


@pytest.mark.parametrize("option", OUR_DEFAULTS)
def test_each_option_matters(
    option: str,
    encoder: ClipEncoder,
    pixels: Tensor,
    references: Tensor,
    zero_shot: WinClipModel,
    few_shot: WinClipModel,
    as_anomalib: dict[str, Any],
) -> None:
    """With one of this project's defaults in its place, the two differ by more than rounding."""
    found = ours(encoder, pixels, references, as_anomalib | {option: OUR_DEFAULTS[option]})
    differences = largest_differences(found, theirs(zero_shot, few_shot, pixels))
    expected = {"plus_scores", "plus_maps"} if option == "final_norm" else set(differences)
    assert {name for name, difference in differences.items() if difference > 2e-5} == expected, differences


def test_query_equal_to_reference(
    encoder: ClipEncoder, references: Tensor, as_anomalib: dict[str, Any]
) -> None:
    """Nothing is left of M^W: no division by zero, half of the language's score. anomalib's score is not
    compared: its harmonic means of rounding errors of either sign can be any number."""
    found = ours(encoder, references, references, as_anomalib)
    assert_close(found.plus_scores, found.scores / 2, **TIGHT)


def test_without_the_adapter_all_windows_are_one(encoder: ClipEncoder, pixels: Tensor) -> None:
    """anomalib hands open_clip's transformer its tokens the wrong way round (anomalib #2571).

    If this fails, one of the two has changed and the adapter may not be needed any more.
    """
    with torch.no_grad():
        image, windows, _ = anomalib_model(encoder, None, adapted=False).encode_image(pixels)
    scales = embed(encoder, pixels)
    assert_close(unit(image), scales.image, **TIGHT)  # open_clip encodes the whole image by itself
    for size, values in zip(SIZES, windows, strict=True):
        assert_close(values, values[:1, :1].expand_as(values), **TIGHT)  # of any image, at any place
        assert (unit(values) - scales.windows[size]).abs().max() > 0.1


def test_count_of_operations() -> None:
    """The benchmark's count is that of the matrix products that really run."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.windows import operations

    encoder = load_encoder("zsad-mini", "random", device="cpu")
    with FlopCounterMode(display=False) as counter:
        encoder.embed_scales(pixels_of(encoder, 1, seed=1), SIZES)
    assert counter.get_total_flops() == operations(encoder.model.visual, SIZES, shared=True)
    assert operations(encoder.model.visual, SIZES, shared=False) > counter.get_total_flops()
