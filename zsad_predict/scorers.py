"""The methods of the book behind one shape, to score a folder of somebody's own images.

An image is cut into square tiles (WinCLIP, supplement A), a tile becomes features, and features a score and a
map. An image's score is the mean over its tiles. Scores and maps are those of `zsad_core.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zsad_core import methods
from zsad_core.cache import cached_arrays, content_key
from zsad_core.checkpoints import SHIPPED
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.fnn import FNN, train_fnn
from zsad_core.image_features import TileFeatures, clip_extractor, random_word_embeddings, text_embeddings
from zsad_core.methods import Output, category_texts
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import ALPHABETS, prompt_pair
from zsad_core.released_prompts import read_released
from zsad_predict.files import Model, Tiles
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

Detect = Callable[[TileFeatures], Output]


@dataclass(frozen=True)
class Scorer:
    """A method that is ready to score images.

    key: everything that scores depend on besides the images, as plain values.
    features: from tiles (t, 3, H, W) to named arrays (t, ...).
    crops: whether `views` (t, v, d) of a tile are six crops or the whole tile; None: no views are needed.
    detect: from features to scores (t,) and maps (t, rows, columns); None for a method that needs references.
    fit_references: makes `detect` from the features of references; `images` counts through all `parts`.
    about_map: a sentence for readers. smooth: whether maps are smoothed as AnomalyCLIP's are.
    trained_on: `auxiliary.image_hashes` of images whose scores are not zero-shot.
    """

    method: str
    encoder: ClipEncoder
    key: Mapping[str, object]
    about_map: str
    features: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)
    detect: Detect | None = field(repr=False, default=None)
    fit_references: Callable[[Sequence[TileFeatures], Sequence[int]], Detect] | None = field(
        repr=False, default=None
    )
    crops: bool | None = None
    smooth: bool = False
    trained_on: frozenset[int] = frozenset()

    @property
    def model(self) -> Model:
        return self.encoder.image_size, self.encoder.transform


def load_scorer(
    method: str, options: Options, *, object_name: str = "object", prompts_file: str | Path | None = None
) -> Scorer:
    """A method with the encoder and options.

    object_name: what the sentences call the object. RWDA and object-agnostic prompts do not use it.
    prompts_file: learned prompts of AnomalyCLIP, a safetensors file of this book or the torch file that its
        authors released; None: those that ship with zsad-mini.
    Raises ValueError for an unknown method, or one that the encoder cannot serve.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    if prompts_file is not None and method != "anomalyclip":
        raise ValueError(f"prompts_file is for the method anomalyclip, not for {method}: leave it out")
    load = partial(load_encoder, device=options.device, precision=options.precision, seed=options.seed)
    if method == "anomalyclip":
        size = options.prompt_image_size
        encoder = load(options.prompt_model, options.prompt_weights, image_size=size)
        return _anomalyclip(encoder, object_name, prompts_file)
    encoder = load(options.model, options.weights)
    if method in ("clip", "rwda"):
        return _scorer_of_views(method, options, encoder, object_name)
    return _winclip(method, options, encoder, object_name)


def embed(scorer: Scorer, images: Sequence[Tiles]) -> TileFeatures:
    """The features of images, all encoded at once."""
    tiles = torch.cat([image.tiles for image in images])
    arrays = {name: value.numpy() for name, value in scorer.features(tiles).items()}
    if scorer.crops is not None:  # tile after tile, each with its views
        embedded = scorer.encoder.embed_images(torch.cat([image.views for image in images]), normalize=False)
        arrays["views"] = embedded.reshape(len(tiles), -1, scorer.encoder.dim).numpy()
    owner = np.repeat(np.arange(len(images)), [len(image.tiles) for image in images])
    boxes = np.array([box for image in images for box in image.boxes])
    sizes = np.array([image.size for image in images])
    return TileFeatures(pd.DataFrame(index=range(len(images))), sizes, owner, boxes, arrays)


def _key(method: str, encoder: ClipEncoder, **more: object) -> dict[str, object]:
    ids = {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    return {"method": method, **ids, **more}


def _numbers(*values: Tensor | np.ndarray) -> str:
    return content_key(numbers=[np.asarray(value, float).ravel().tolist() for value in values])


def _scorer_of_views(method: str, options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    """CLIP's s_pr (RWDA, Sec. 3.1), at the temperature that the weights were trained with, or RWDA's s_FNN
    (Sec. 3.3). Where the model has patch tokens, with maps that the papers do not have."""
    if method == "clip":
        texts = text_embeddings(encoder, prompt_pair(object_name), options.cache_dir)  # (2, d)
        temperature = options.temperature or encoder.temperature
        score = partial(methods.clip, texts=tuple(texts), temperature=temperature)
        key = {"texts": _numbers(texts), "temperature": temperature}
    else:
        key = _fnn_key(options, encoder)
        score = partial(methods.rwda, fnn=_trained_fnn(options, encoder, key))
    has_map = encoder.has_class_token

    def features(tiles: Tensor) -> dict[str, Tensor]:
        if not has_map:
            return {}
        last, first = encoder.depth, quarter_blocks(encoder.depth)[0]
        return {"local": encoder.embed_patches(tiles, (last,), "vv", first, normalize=False)[last]}

    def detect(dense: TileFeatures) -> Output:
        scores = score(dense.tensor("views")).scores
        if not has_map:
            return Output(scores)
        patches = dense.tensor("local").flatten(0, 1)[:, None]  # (t patches, 1, d): images of one view
        return Output(scores, score(patches).scores.unflatten(0, (-1, *encoder.grid)))

    key = {**_key(method, encoder, crops=options.multi_crop), **key}
    about = MAPS[method] if has_map else NO_MAP
    return Scorer(method, encoder, key, about, features, detect, crops=options.multi_crop)


def _fnn_key(options: Options, encoder: ClipEncoder) -> dict[str, object]:
    """Everything that RWDA's network depends on."""
    names = {"seed", "n_pairs", "alphabet", "epochs", "batch_size", "lr", "weight_decay", "dropout", "hidden"}
    return _key("rwda", encoder, **options.model_dump(mode="json", include=names))


def _trained_fnn(options: Options, encoder: ClipEncoder, key: dict[str, object]) -> FNN:
    """RWDA's network of the profile's first seed, kept in the cache. It trains on n_pairs pairs of random
    words, all that are drawn: one network does not need the profile's pool, which takes much longer to
    embed."""

    def train() -> dict[str, np.ndarray]:
        words = {"seed": options.seed, "alphabet": ALPHABETS[options.alphabet]}
        pairs = random_word_embeddings(encoder, options.cache_dir, options.n_pairs, **words)
        own = options.model_dump(include={"epochs", "batch_size", "lr", "weight_decay", "dropout", "hidden"})
        fnn = train_fnn(*pairs, seed=options.seed, **own)
        return {name: value.numpy() for name, value in fnn.state_dict().items()}

    state = cached_arrays(Path(options.cache_dir) / "fnn", "your_images", key, train)
    fnn = FNN(encoder.dim, options.hidden, options.dropout)
    fnn.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return fnn.eval()


def _winclip(method: str, options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    plus = method == "winclip_plus"
    if plus and encoder.is_resnet:
        raise ValueError(
            f"winclip_plus compares patch tokens, which {encoder.model_id} has not: take winclip, or a "
            "Vision Transformer"
        )
    texts = category_texts(encoder, object_name, options.cache_dir)
    temperature = options.temperature or encoder.temperature

    def zero_shot(dense: TileFeatures) -> Output:
        return methods.winclip(dense, texts, encoder.grid, temperature)

    def patches(dense: TileFeatures) -> Tensor:
        return dense.tensor(f"layer/{encoder.depth}")

    def fit_references(parts: Sequence[TileFeatures], images: Sequence[int]) -> Detect:
        memory = methods.fit_references(parts, images, patches)

        def detect(dense: TileFeatures) -> Output:
            found = methods.winclip_plus(dense, patches(dense), memory, zero_shot(dense), encoder.grid)
            return found["P+Wm+Ws"]

        return detect

    extractor = clip_extractor(encoder, options.scales, (encoder.depth,) if plus else ())
    key = {"scales": list(options.scales), "texts": _numbers(*texts), "temperature": temperature}
    key = _key(method, encoder, **key, crops=options.multi_crop)
    own = {"fit_references": fit_references} if plus else {"detect": zero_shot}
    return Scorer(method, encoder, key, MAPS[method], extractor.features, crops=options.multi_crop, **own)


def _anomalyclip(encoder: ClipEncoder, object_name: str, prompts_file: str | Path | None) -> Scorer:
    prompts = read_prompts(encoder, prompts_file)
    texts, config = prompts.texts(encoder, [object_name])[0], prompts.config  # (2, d)
    extractor = methods.extractor_of(encoder, config)

    def detect(dense: TileFeatures) -> Output:
        return methods.anomalyclip(dense, texts, encoder.grid, config.temperature)

    key = _key("anomalyclip", encoder, texts=_numbers(texts), temperature=config.temperature)
    key |= extractor.key
    own = {"smooth": True, "trained_on": frozenset(prompts.trained_on.tolist())}
    return Scorer("anomalyclip", encoder, key, MAPS["anomalyclip"], extractor.features, detect, **own)


def read_prompts(encoder: ClipEncoder, path: str | Path | None = None) -> LearnedPrompts:
    """Learned prompts for an encoder, from a file of either kind; None: those that ship with zsad-mini.

    Raises ValueError when they belong to another encoder, FileNotFoundError.
    """
    if path is not None and Path(path).suffix != ".safetensors":
        return read_released(path, encoder)
    prompts = LearnedPrompts.load(path or SHIPPED_PROMPTS)
    try:
        prompts.check(encoder)
    except ValueError as error:
        if path is None:
            raise ValueError(f"{error}. For another encoder give prompts_file") from None
        raise
    return prompts
