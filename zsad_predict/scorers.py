"""The methods of the book behind one interface, to score a folder of your own images.

An image is cut into square tiles (WinCLIP, supplement A). Scores and maps of a tile are those of
`zsad_core.methods`; an image's score is the mean over its tiles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zsad_core import image_features, methods
from zsad_core.cache import cached_arrays, content_key
from zsad_core.checkpoints import SHIPPED
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.fnn import FNN, train_fnn
from zsad_core.image_features import TileFeatures
from zsad_core.methods import Output, category_texts
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import ALPHABETS, prompt_pair
from zsad_core.references import Memory
from zsad_predict.files import Reader, Tiles
from zsad_predict.options import METHODS, Options
from zsad_predict.released_prompts import read_released

Detect = Callable[[TileFeatures], Output]


@dataclass(frozen=True)
class Scorer:
    """key: everything that scores depend on besides the images and the method, as plain values.
    detect: from features to scores (t,) and maps (t, rows, columns); None for a method that needs references.
    fit_references: makes `detect` from the features of references; `images` counts through all `parts`.
    crops: whether `views` (t, v, d) of a tile are six crops or the whole tile; None: no views are needed.
    smooth: whether maps are smoothed as AnomalyCLIP's are.
    trained_on: the first 16 digits of the digests of images whose scores are not zero-shot."""

    method: str
    encoder: ClipEncoder
    extractor: image_features.Extractor
    key: Mapping[str, object]
    detect: Detect | None = field(repr=False, default=None)
    fit_references: Callable[[Sequence[TileFeatures], Sequence[int]], Detect] | None = None
    crops: bool | None = None
    smooth: bool = False
    trained_on: frozenset[str] = frozenset()


def load_scorer(
    method: str, options: Options, *, object_name: str = "object", prompts_file: str | Path | None = None
) -> Scorer:
    """object_name: in the sentences. RWDA and object-agnostic prompts do not use it.
    prompts_file: learned prompts of AnomalyCLIP, as in `read_prompts`.
    Raises ValueError for an unknown method, or one that the encoder cannot serve."""
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    if prompts_file is not None and method != "anomalyclip":
        raise ValueError(f"prompts_file is for the method anomalyclip, not for {method}: leave it out")
    load = partial(load_encoder, device=options.device, precision=options.precision, seed=options.seed)
    if method == "anomalyclip":
        encoder = load(options.prompt_model, options.prompt_weights, image_size=options.prompt_image_size)
        return _anomalyclip(encoder, object_name, prompts_file)
    encoder = load(options.model, options.weights)
    make = _winclip if method in ("winclip", "winclip_plus") else _of_views
    return make(method, options, encoder, object_name)


def reader_of(scorer: Scorer, reader: Reader) -> Callable[[tuple[Path, str]], tuple[Tiles | None, dict]]:
    """`Reader.tiles` for a method, which can be pickled."""
    model = scorer.extractor.network
    return partial(reader.tiles, image_size=model.image_size, transform=model.transform, crops=scorer.crops)


def embed(scorer: Scorer, images: Sequence[Tiles]) -> TileFeatures:
    """The features of images, all encoded at once."""
    views = torch.cat([image.views for image in images])  # (t, v, 3, H, W)
    arrays = {name: value.numpy() for name, value in scorer.extractor.features(views[:, 0]).items()}
    if scorer.crops is not None:
        embedded = scorer.encoder.embed_images(views.flatten(0, 1), normalize=False)
        arrays["views"] = embedded.unflatten(0, views.shape[:2]).numpy()
    owner = np.repeat(np.arange(len(images)), [len(image.boxes) for image in images])
    boxes = np.array([box for image in images for box in image.boxes])
    sizes = np.array([image.size for image in images])
    return TileFeatures(pd.DataFrame(index=range(len(images))), sizes, owner, boxes, arrays)


def _numbers(*values: Tensor | np.ndarray) -> str:
    return content_key(numbers=[np.asarray(value, float).ravel().tolist() for value in values])


def _of_views(method: str, options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    """CLIP's s_pr or RWDA's s_FNN (RWDA, Sec. 3.1, 3.3); of patch tokens also maps, which no paper has."""
    has_map = encoder.has_class_token

    def features(tiles: Tensor) -> dict[str, Tensor]:
        if not has_map:
            return {}
        last, first = encoder.depth, quarter_blocks(encoder.depth)[0]
        return {"local": encoder.embed_patches(tiles, (last,), "vv", first, normalize=False)[last]}

    extractor = image_features.encoder_extractor(encoder, features)
    if method == "clip":
        texts = image_features.text_embeddings(encoder, prompt_pair(object_name), options.cache_dir)  # (2, d)
        temperature = options.temperature or encoder.temperature
        score = partial(methods.clip, texts=tuple(texts), temperature=temperature)
        key = {**extractor.key, "texts": _numbers(texts), "temperature": temperature}
    else:
        fnn, key = _fnn(options, encoder, extractor.key)
        score = partial(methods.rwda, fnn=fnn)

    def detect(features: TileFeatures) -> Output:
        scores = score(features.tensor("views")).scores
        if not has_map:
            return Output(scores)
        patches = features.tensor("local").flatten(0, 1)[:, None]  # (t patches, 1, d): images of one view
        return Output(scores, score(patches).scores.unflatten(0, (-1, *encoder.grid)))

    crops = options.multi_crop
    return Scorer(method, encoder, extractor, key | {"crops": crops}, detect, crops=crops)


def _fnn(options: Options, encoder: ClipEncoder, key: Mapping[str, object]) -> tuple[FNN, dict[str, object]]:
    """RWDA's network of the profile's first seed, cached, and its key. Its n_pairs pairs of random words are
    all that are drawn: the profile's pool takes much longer to embed."""
    names = {"seed", "epochs", "batch_size", "lr", "weight_decay", "dropout", "hidden"}
    own = options.model_dump(include=names)
    key = {**key, **options.model_dump(mode="json", include={*names, "n_pairs", "alphabet"})}

    def train() -> dict[str, np.ndarray]:
        words = {"seed": options.seed, "alphabet": ALPHABETS[options.alphabet]}
        pairs = image_features.random_word_embeddings(encoder, options.cache_dir, options.n_pairs, **words)
        return {name: value.numpy() for name, value in train_fnn(*pairs, **own).state_dict().items()}

    state = cached_arrays(Path(options.cache_dir) / "fnn", "your_images", key, train)
    fnn = FNN(encoder.dim, options.hidden)
    fnn.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return fnn.eval(), key


def _winclip(method: str, options: Options, encoder: ClipEncoder, object_name: str) -> Scorer:
    plus = method == "winclip_plus"
    if plus and encoder.is_resnet:
        what = f"winclip_plus compares patch tokens, which {encoder.model_id} has not"
        raise ValueError(f"{what}: take winclip, or a Vision Transformer")
    texts = category_texts(encoder, object_name, options.cache_dir)
    temperature = options.temperature or encoder.temperature
    zero_shot = partial(methods.winclip, texts=texts, grid=encoder.grid, temperature=temperature)

    def patches(features: TileFeatures) -> Tensor:
        return features.tensor(f"layer/{encoder.depth}")

    def with_memory(features: TileFeatures, memory: Memory) -> Output:
        found = methods.winclip_plus(features, patches(features), memory, zero_shot(features), encoder.grid)
        return found["P+Wm+Ws"]

    def fit_references(parts: Sequence[TileFeatures], images: Sequence[int]) -> Detect:
        return partial(with_memory, memory=methods.fit_references(parts, images, patches))

    extractor = image_features.clip_extractor(encoder, options.scales, (encoder.depth,) if plus else ())
    crops, key = options.multi_crop, {**extractor.key, "texts": _numbers(*texts), "temperature": temperature}
    own = {"fit_references": fit_references} if plus else {"detect": zero_shot}
    return Scorer(method, encoder, extractor, key | {"crops": crops}, crops=crops, **own)


def _anomalyclip(encoder: ClipEncoder, object_name: str, prompts_file: str | Path | None) -> Scorer:
    prompts = read_prompts(encoder, prompts_file)
    texts, temperature = prompts.texts(encoder, [object_name])[0], prompts.config.temperature  # (2, d)
    extractor = methods.extractor_of(encoder, prompts.config)
    detect = partial(methods.anomalyclip, texts=texts, grid=encoder.grid, temperature=temperature)
    key = {**extractor.key, "texts": _numbers(texts), "temperature": temperature}
    trained_on = frozenset(f"{number % 2**64:016x}" for number in prompts.trained_on.tolist())
    return Scorer("anomalyclip", encoder, extractor, key, detect, smooth=True, trained_on=trained_on)


def read_prompts(encoder: ClipEncoder, path: str | Path | None = None) -> LearnedPrompts:
    """Learned prompts from a safetensors file of this book, or the torch file that AnomalyCLIP's authors
    released; None: those that ship with zsad-mini. ValueError when they belong to another encoder."""
    if path is not None and Path(path).suffix != ".safetensors":
        return read_released(path, encoder)
    prompts = LearnedPrompts.load(path or SHIPPED / "zsad-mini-prompts.safetensors")
    try:
        prompts.check(encoder)
    except ValueError as error:
        hint = ". For another encoder give prompts_file" if path is None else ""
        raise ValueError(f"{error}{hint}") from None
    return prompts
