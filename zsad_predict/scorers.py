"""The methods of this book on single images: what a folder of somebody's own is scored with.

Nothing is computed here that is not in the modules of the methods. A `Scorer` puts them behind one shape:
images are cut into square tiles (WinCLIP, supplement A), a tile becomes features, and features a score and a
map. An image's score is the mean over its tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zsad_core import methods
from zsad_core.cache import content_key
from zsad_core.checkpoints import SHIPPED
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.fnn import train_fnn
from zsad_core.image_features import Dense, clip_extractor, random_word_embeddings, text_embeddings
from zsad_core.methods import Output, category_texts
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import ALPHABETS, prompt_pair
from zsad_core.released_prompts import read_released
from zsad_predict.files import Cut
from zsad_predict.options import METHODS, Options

SHIPPED_PROMPTS = SHIPPED / "zsad-mini-prompts.safetensors"

NO_MAP = "No maps: the model has no patch tokens."
MAPS = {
    "clip": "CLIP's score has no map in the papers. This one is the book's own: patch tokens with v-v "
    "attention, as AnomalyCLIP has them, matched with the same two sentences.",
    "rwda": "RWDA has no map in its paper. This one is the book's own: patch tokens with v-v attention, as "
    "AnomalyCLIP has them, scored by the same network.",
    "winclip": "The map is WinCLIP's zero-shot map (Sec. 4.2).",
    "winclip_plus": "The map is WinCLIP+'s: the zero-shot map and the distances to the normal references, "
    "averaged harmonically (Sec. 4.3).",
    "anomalyclip": "The map is AnomalyCLIP's: local features against learned prompts, smoothed (App. A.1).",
}
"""What a method's heat map is, and whether it is the paper's."""

FNN_OPTIONS = ("epochs", "batch_size", "lr", "weight_decay", "dropout", "hidden")

Detect = Callable[[Dense], Output]


@dataclass(frozen=True)
class Scorer:
    """A method that is ready to look at images.

    key: everything that scores depend on besides images and references, as plain values.
    features: from tiles (t, 3, H, W) to named arrays (t, ...).
    crops: whether `views` (t, v, d) of a tile are six crops or the whole tile; None: no views are needed.
    detect: from features to scores (t,) and maps (t, rows, columns); None for a method that needs references.
    remember: remember(parts, images) makes that of references: `images` counts through all `parts`.
    about_map: a sentence for readers. smooth: whether maps are smoothed as AnomalyCLIP's are.
    trained_on: `auxiliary.image_hashes` of images whose scores are not zero-shot.
    """

    method: str
    encoder: ClipEncoder
    key: Mapping[str, object]
    about_map: str
    features: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)
    detect: Detect | None = field(repr=False, default=None)
    remember: Callable[[Sequence[Dense], Sequence[int]], Detect] | None = field(repr=False, default=None)
    crops: bool | None = None
    smooth: bool = False
    trained_on: frozenset[int] = frozenset()


def load_scorer(
    method: str, options: Options, *, object_name: str = "object", prompts_file: str | Path | None = None
) -> Scorer:
    """A method with the encoder and options.

    object_name: what the sentences call the thing. "object" by default: nothing has to be known, and RWDA and
        AnomalyCLIP mean it so. AnomalyCLIP's object-agnostic prompts do not use it at all.
    prompts_file: learned prompts of AnomalyCLIP, a safetensors file of this book or the torch file that its
        authors released; None: those that ship with zsad-mini.
    Raises ValueError for an unknown method, or one that the encoder cannot serve.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    if prompts_file is not None and method != "anomalyclip":
        raise ValueError(f"prompts_file is for the method anomalyclip, not for {method}: leave it out")
    if method == "anomalyclip":
        return _anomalyclip(options, object_name, prompts_file)
    own = {"device": options.device, "precision": options.precision, "seed": options.seed}
    encoder = load_encoder(options.model, options.weights, **own)
    if method in ("winclip", "winclip_plus"):
        return _winclip(method, options, encoder, object_name)
    return _clip(options, encoder, object_name) if method == "clip" else _rwda(options, encoder)


def see(scorer: Scorer, images: Sequence[Cut]) -> Dense:
    """The features of images, all encoded at once."""
    tiles = torch.cat([image.tiles for image in images])
    arrays = {name: value.numpy() for name, value in scorer.features(tiles).items()}
    if scorer.crops is not None:  # tile after tile, each with its views
        embedded = scorer.encoder.embed_images(torch.cat([image.views for image in images]), normalize=False)
        arrays["views"] = embedded.reshape(len(tiles), -1, scorer.encoder.dim).numpy()
    owner = np.repeat(np.arange(len(images)), [len(image.tiles) for image in images])
    boxes = np.array([box for image in images for box in image.boxes])
    sizes = np.array([image.size for image in images])
    return Dense(pd.DataFrame(index=range(len(images))), sizes, owner, boxes, arrays)


def _ids(method: str, encoder: ClipEncoder) -> dict[str, object]:
    ids = {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    return {"method": method, **ids}


def _numbers(*values: Tensor | np.ndarray) -> str:
    return content_key(numbers=[np.asarray(value, float).ravel().tolist() for value in values])


def _clip(options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    """s_pr (RWDA, Sec. 3.1), at the temperature that the weights were trained with: CLIP's 0.01, as there."""
    texts = text_embeddings(encoder, prompt_pair(object_name), options.cache_dir)  # (2, d)
    temperature = options.temperature or encoder.temperature
    local, about, key = _patches(encoder, "clip")

    def detect(dense: Dense) -> Output:
        patches = dense.tensor("local") if about != NO_MAP else None
        return methods.clip(
            dense.tensor("views"), tuple(texts), temperature, patches=patches, grid=encoder.grid
        )

    key |= {**_ids("clip", encoder), "texts": _numbers(texts), "crops": options.multi_crop}
    key["temperature"] = temperature
    return Scorer("clip", encoder, key, about, local, detect, crops=options.multi_crop)


def _rwda(options: Options, encoder: ClipEncoder) -> Scorer:
    """s_FNN of the network of the profile's first seed. It trains on n_pairs pairs of random words, all that
    are drawn: one network does not need the profile's pool, which takes much longer to embed."""
    words = {"seed": options.seed, "alphabet": ALPHABETS[options.alphabet]}
    pairs = random_word_embeddings(encoder, options.cache_dir, options.n_pairs, **words)
    own = {name: getattr(options, name) for name in FNN_OPTIONS}
    fnn = train_fnn(*pairs, seed=options.seed, **own)
    local, about, key = _patches(encoder, "rwda")

    def detect(dense: Dense) -> Output:
        patches = dense.tensor("local") if about != NO_MAP else None
        return methods.rwda(dense.tensor("views"), fnn, patches=patches, grid=encoder.grid)

    weights = _numbers(*(value for _, value in sorted(fnn.state_dict().items())))
    key |= {**_ids("rwda", encoder), "fnn": weights, "crops": options.multi_crop}
    return Scorer("rwda", encoder, key, about, local, detect, crops=options.multi_crop)


def _patches(encoder: ClipEncoder, method: str) -> tuple[Callable, str, dict[str, object]]:
    """Features for a map that the paper does not have: `local` (t, patches, d), raw; what to say; a key,
    empty where the model has no such tokens."""
    if not encoder.has_class_token:
        return lambda tiles: {}, NO_MAP, {}
    depth = encoder.depth
    first = quarter_blocks(depth)[0]
    embed = lambda tiles: encoder.embed_patches(tiles, (depth,), "vv", first, normalize=False)[depth]  # noqa: E731
    return lambda tiles: {"local": embed(tiles)}, MAPS[method], {"attention": "vv", "first": first}


def _winclip(method: str, options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    plus = method == "winclip_plus"
    if plus and encoder.is_resnet:
        raise ValueError(
            f"winclip_plus compares patch tokens, which {encoder.model_id} has not: take winclip, or a "
            "Vision Transformer"
        )
    texts = category_texts(encoder, object_name, options.cache_dir)
    temperature = options.temperature or encoder.temperature
    depth = encoder.depth

    def zero_shot(dense: Dense) -> Output:
        return methods.winclip(dense, texts, encoder.grid, temperature)

    def last(dense: Dense) -> Tensor:
        return dense.tensor(f"layer/{depth}")

    def remember(parts: Sequence[Dense], images: Sequence[int]) -> Detect:
        memory = methods.fit_references(parts, images, last)

        def detect(dense: Dense) -> Output:
            found = methods.winclip_plus(dense, last(dense), memory, zero_shot(dense), encoder.grid)
            return found["P+Wm+Ws"]

        return detect

    extractor = clip_extractor(encoder, options.scales, (depth,) if plus else ())
    key = {**_ids(method, encoder), "scales": list(options.scales), "texts": _numbers(*texts)}
    key |= {"temperature": temperature, "crops": options.multi_crop}
    own = {"remember": remember} if plus else {"detect": zero_shot}
    return Scorer(method, encoder, key, MAPS[method], extractor.features, crops=options.multi_crop, **own)


def _anomalyclip(options: Options, object_name: str, prompts_file: str | Path | None) -> Scorer:
    encoder = load_encoder(
        options.prompt_model,
        options.prompt_weights,
        device=options.device,
        precision=options.precision,
        seed=options.seed,
        image_size=options.prompt_image_size,
    )
    prompts = read_prompts(encoder, prompts_file)
    texts = prompts.texts(encoder, [object_name])[0]  # (2, d)
    config = prompts.config
    extractor = methods.extractor_of(encoder, config)
    key = {**_ids("anomalyclip", encoder), **extractor.key, "texts": _numbers(texts)}
    return Scorer(
        "anomalyclip",
        encoder,
        {**key, "temperature": config.temperature},
        MAPS["anomalyclip"],
        extractor.features,
        lambda dense: methods.anomalyclip(dense, texts, encoder.grid, config.temperature),
        smooth=True,
        trained_on=frozenset(prompts.trained_on.tolist()),
    )


def read_prompts(encoder: ClipEncoder, path: str | Path | None = None) -> LearnedPrompts:
    """Learned prompts for an encoder, from a file of either kind; None: those that ship with zsad-mini.

    Raises ValueError when they belong to another encoder, FileNotFoundError.
    """
    if path is None:
        prompts = LearnedPrompts.load(SHIPPED_PROMPTS)
        if (prompts.model_id, prompts.weights_id) != (encoder.model_id, encoder.weights_id):
            raise ValueError(
                f"the prompts that ship with this project were learned with {prompts.model_id}, weights "
                f"{prompts.weights_id}, and mean nothing to {encoder.model_id}, weights "
                f"{encoder.weights_id}: give prompts_file, learned for it "
                "(`zsad_core.prompt_learning.train_prompts`) or released by AnomalyCLIP's authors"
            )
        return prompts
    if Path(path).suffix == ".safetensors":
        prompts = LearnedPrompts.load(path)
        prompts.check(encoder)
        return prompts
    return read_released(path, encoder)
