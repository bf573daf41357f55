"""CLIP as one small object: images, windows and sentences to embeddings, on open_clip's own model classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.utils import to_2tuple
from PIL import Image
from torch import Tensor, nn

from zsad_core import vit_windows
from zsad_core.checkpoints import build, load_weights, locate_weights, read_config, resize_grid
from zsad_core.dpam import attention_kinds, dual_path
from zsad_core.images import to_rgb
from zsad_core.resnet_windows import embed_resnet
from zsad_core.text import Tokenizer, causal_text_tower, cut, encode_tokens, tokens_of
from zsad_core.vit_windows import MultiScaleEmbeddings
from zsad_core.windows import window_indices

Precision = Literal["fp32", "bf16"]

# Numbers in the residual stream of one batch, which bounds the memory (the widest activation has four times
# as many). On a CPU small batches are faster as well: half a million numbers stay in its cache.
_NUMBERS_PER_BATCH = {"cpu": 2**19, "gpu": 2**25}
# The same for windows, whose memory is reused: larger products pay there (benchmarks/windows.py). On a CPU
# these are 1,609 tokens of ViT-B/16+.
_WINDOW_NUMBERS = {"cpu": 11 * 2**17, "gpu": 2**25}


def load_encoder(
    model: str | Path = "zsad-mini",
    weights: str | Path | None = None,
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    seed: int = 0,
    image_size: int | None = None,
) -> ClipEncoder:
    """A frozen CLIP with a Vision Transformer or a ResNet as image tower.

    Args:
        model: "zsad-mini", the name of an architecture of open_clip (ViT-B-16-plus-240,
            ViT-L-14-336-quickgelu, RN50-quickgelu ...), or the path of an open_clip model config (.json).
        weights: None for those that ship with zsad-mini; a pretrained tag of open_clip (downloaded once); the
            path of a checkpoint (safetensors, a torch file that holds tensors only, or OpenAI's TorchScript
            archive); or "random". Files are checked: by SHA-256 where it is known, by names and shapes
            always. No pickled code is executed.
        device: "auto" (a CUDA GPU if there is one, else the CPU) or a torch device.
        precision: "fp32", or "bf16": matrix products in bfloat16, on GPUs that have it and on CPUs with AMX;
            weights and embeddings stay float32. About two digits of an embedding remain.
        seed: of random weights. The global random state is left as it was.
        image_size: edge of the square input in pixels when it is not the architecture's own; the position
            embeddings are resized (`checkpoints.resize_grid`). AnomalyCLIP gives 518 to a model of 336.

    Raises:
        ValueError: an unknown architecture, or weights that do not belong to it (other shapes, GELU instead
            of QuickGELU, another checksum). FileNotFoundError: a config or checkpoint that is not there.
        OSError: a tag that cannot be downloaded.

    >>> encoder = load_encoder("zsad-mini", weights="random")
    >>> encoder.image_size, encoder.patch_size, encoder.grid, encoder.dim
    ((96, 96), (12, 12), (8, 8), 192)
    >>> encoder.embed_text(["a photo of an object", "a photo of a damaged object"]).shape
    torch.Size([2, 192])
    """
    model_id, config, preprocess = read_config(model)
    chosen = choose_device(device, precision)
    source = locate_weights(str(model), weights, config.get("quick_gelu", False), seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the GPUs' generators
        network = build(config)
    if source.path is not None:
        load_weights(network, source.path, model_id)
    if image_size is not None and to_2tuple(network.visual.image_size) != (image_size, image_size):
        resize_grid(network, image_size)
        model_id = f"{model_id}-{image_size}px"
    known = str(model) in open_clip.list_models()
    return ClipEncoder(
        network.to(chosen),
        open_clip.get_tokenizer(str(model)) if known else SimpleTokenizer(),
        {**source.preprocess, **preprocess},
        model_id=model_id,
        weights_id=source.weights_id,
        weights_sha256=source.sha256,
        precision=precision,
    )


class ClipEncoder:
    """Embeds images, windows of patches and sentences in CLIP's joint space; made by `load_encoder`.

    Every embed_* takes any number of inputs, works in batches of bounded memory, and returns float32 rows on
    the CPU, L2-normalised unless normalize=False.

    Attributes:
        model: the open_clip module, frozen, in eval mode. tokenizer: open_clip's for this model.
        image_size, patch_size: (height, width) in pixels. grid: patches in (rows, columns). A ResNet
            (is_resnet) has the cells of its last feature map instead of patches.
        dim: d, the width of the joint space.
        depth, width: blocks of the image tower and numbers in one of its tokens. A ResNet has depth 0.
        has_class_token: whether the image's embedding is its class token, so that patches have one too.
        text_tower: the module with the text tower's parts if it is causal and read at the end token, else
            None. text_depth: its blocks, else 0. context_length: tokens that it reads.
        temperature: 1 / exp(logit_scale) of the weights: 0.01 in most trained CLIPs, 0.07 at initialisation.
        model_id, weights_id: names made of content, to key caches with. weights_sha256: of the weights file,
            None for random ones. precision: "fp32" or "bf16". device.
        transform: what `preprocess` does to an RGB image; without the model, so other processes can have it.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        preprocess: dict[str, Any],
        *,
        model_id: str,
        weights_id: str,
        weights_sha256: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.model_id, self.weights_id, self.precision = model_id, weights_id, precision
        self.weights_sha256 = weights_sha256
        self.device = model.logit_scale.device
        visual = model.visual
        self.is_resnet = isinstance(visual, ModifiedResNet)
        self.image_size: tuple[int, int] = to_2tuple(visual.image_size)
        self.patch_size: tuple[int, int] = (32, 32) if self.is_resnet else tuple(visual.patch_size)
        self.grid = tuple(edge // patch for edge, patch in zip(self.image_size, self.patch_size))
        self.dim: int = visual.output_dim
        self.depth = 0 if self.is_resnet else len(visual.transformer.resblocks)
        self.width: int = visual.conv1.out_channels
        self.has_class_token = not self.is_resnet and visual.pool_type == "tok" and visual.attn_pool is None
        self.text_tower = causal_text_tower(model, tokenizer)
        self.text_depth = len(self.text_tower.transformer.resblocks) if self.text_tower else 0
        self.context_length: int = model.context_length
        self.temperature = 1 / model.logit_scale.exp().item()
        preprocess = merge_preprocess_dict(PreprocessCfg(), {**preprocess, "size": self.image_size})
        self.transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)

    def __repr__(self) -> str:
        return f"ClipEncoder({self.model_id}, weights {self.weights_id}, {self.precision} on {self.device})"

    def preprocess(self, image: Image.Image) -> Tensor:
        """open_clip's evaluation pipeline: (3, H, W) float32 from a PIL image of any size and mode.

        Shorter edge resized to `image_size` (bicubic, antialiased), centre crop, mean and standard deviation
        of the weights. See `to_rgb` for images that are not RGB.
        """
        return self.transform(to_rgb(image))

    def tokenize(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each prompt from the start token to the end token, neither cut nor padded."""
        return tokens_of(self.tokenizer, prompts)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str], normalize: bool = True) -> Tensor:
        """(n, d) embeddings of n prompts; (0, d) for none.

        Equal to open_clip's `encode_text` up to rounding, in less time: the text tower is causal and is read
        at the end token, so what follows that token changes nothing. Each batch is as long as its longest
        prompt instead of the whole context, prompts are batched by length, and equal prompts are encoded
        once. A prompt longer than the context loses its end as in open_clip, with a warning.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise TypeError(f"embed_text expects a list of sentences, got {_describe(prompts)}")
        unique = list(dict.fromkeys(prompts))
        sequences = cut(dict(zip(unique, self.tokenize(unique), strict=True)), self.context_length)
        order = sorted(set(sequences.values()), key=lambda tokens: (len(tokens), tokens))
        row_of = {tokens: row for row, tokens in enumerate(order)}
        width = self.text_tower.token_embedding.embedding_dim if self.text_tower else self.dim
        bound = _NUMBERS_PER_BATCH[self._memory] // width  # tokens

        encoded = torch.empty(len(order), self.dim)
        start = stop = 0
        while start < len(order):
            while stop < len(order) and stop - start < max(1, bound // self._padded(order[stop])):
                stop += 1  # the longest sequence comes last and decides how many fit
            encoded[start:stop] = self._encode_sequences(order[start:stop])
            start = stop
        embeddings = encoded[[row_of[sequences[prompt]] for prompt in prompts]]  # (n, d)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @torch.no_grad()
    def embed_images(self, pixels: Tensor, normalize: bool = True, final_norm: bool = True) -> Tensor:
        """(n, d) embeddings of preprocessed images (n, 3, H, W).

        final_norm: False projects the class token without the last layer norm, as AnomalyCLIP's code does for
            its global feature. Its paper does not mention it; prompts learned with one do not fit the other.
        """
        if not final_norm:
            self._require_class_token("final_norm=False")
        parts, visual = [], self.model.visual
        for batch in self._batches(pixels, math.prod(self.grid) * self.width, _NUMBERS_PER_BATCH):
            with self._autocast():
                if final_norm:
                    parts.append(self.model.encode_image(batch, normalize=False).float().cpu())  # (b, d)
                else:
                    class_token = visual.transformer(visual._embeds(batch))[:, 0]  # (b, width)
                    parts.append((class_token @ visual.proj).float().cpu())
        embeddings = torch.cat(parts)[: len(pixels)]
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def embed_windows(self, pixels: Tensor, size: int) -> Tensor:
        """(n, n_windows, d) embeddings of all windows of size x size patches (WinCLIP, section 4.2, Eq. 2).

        Windows in the order of `windows.window_indices`. An image is cut into patches once; patches outside a
        window are dropped before the transformer, those inside keep the position that they have in the whole
        image, and the window's class token is read. A window of the whole grid gives the whole image's
        embedding. A CLIP ResNet is windowed on its feature map, before the attention pooling.
        `vit_windows.plain_windows` is the same in five lines, and slower.
        """
        return self.embed_scales(pixels, (size,), whole=False).windows[size]

    @torch.no_grad()
    def embed_scales(
        self,
        pixels: Tensor,
        sizes: Sequence[int] = (2, 3),
        *,
        whole: bool = True,
        layers: Sequence[int] = (),
    ) -> MultiScaleEmbeddings:
        """The whole image, all windows of several sizes and patch tokens, from one pass that shares the work.

        pixels: (n, 3, H, W). whole: False leaves the whole image out.
        layers: 1-based blocks whose patch tokens are wanted, (n, patches, width), as they leave the block:
            neither normalised nor projected (WinCLIP's F^P is the last block's).
        Raises ValueError for a window larger than the grid or a block that does not exist.
        """
        for size in sizes:
            window_indices(self.grid, size)  # refuses what does not fit
        if not self.is_resnet:
            self._require_class_token("embed_windows")
        if any(not 1 <= layer <= self.depth for layer in layers):
            has = "is a ResNet and has no patch tokens" if self.is_resnet else f"has blocks 1 to {self.depth}"
            raise ValueError(f"layers={tuple(layers)}: {self.model_id} {has}")
        batches = self._batches(pixels, math.prod(self.grid) * 3 * self.dim, _WINDOW_NUMBERS)
        parts = [self._scales_of(batch, sizes, whole, layers) for batch in batches]
        join = lambda found: torch.cat(found)[: len(pixels)]  # noqa: E731
        return MultiScaleEmbeddings(
            F.normalize(join([part.image for part in parts]), dim=-1) if whole else None,
            {size: F.normalize(join([part.windows[size] for part in parts]), dim=-1) for size in sizes},
            {layer: join([part.layers[layer] for part in parts]) for layer in layers},
        )

    @torch.no_grad()
    def embed_glocal(
        self,
        pixels: Tensor,
        layers: Sequence[int],
        attention: str = "vv",
        first: int = 6,
        final_norm: bool = False,
        normalize: bool = True,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Global feature (n, d) and local features {block: (n, patches, d)} of one pass (AnomalyCLIP, 3.3).

        attention: "qk", the tower's own, or "vv", "qq", "kk" on a second path that starts at block `first`
            (`dpam.dual_path`), or an ensemble such as "qq+kk+vv". layers: 1-based. Local features get the
            last layer norm and the projection. An ensemble is the mean of its kinds' unit rows, so that its
            cosine with a text is the mean of theirs (App. D): its rows are shorter than 1 and must not be
            normalised again.
        final_norm: whether the global feature gets the last layer norm too. The paper does not say. The
            prompts that its authors released belong to features without.
        """
        self._require_class_token("local features")
        visual, kinds = self.model.visual, attention_kinds(attention)
        unit = (lambda x: F.normalize(x.float(), dim=-1)) if normalize else (lambda x: x.float())  # noqa: E731
        heads: list[Tensor] = []
        patches: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for batch in self._batches(pixels, math.prod(self.grid) * self.width, _NUMBERS_PER_BATCH):
            with self._autocast():
                class_token, tokens = dual_path(visual, batch, layers, kinds, first)
                class_token = visual.ln_post(class_token) if final_norm else class_token
                heads.append(unit(class_token @ visual.proj).cpu())
                for layer in layers:
                    own = [unit(visual.ln_post(tokens[kind][layer][:, 1:]) @ visual.proj) for kind in kinds]
                    patches[layer].append((sum(own) / len(own)).cpu())  # (b, patches, d)
        n = len(pixels)
        return torch.cat(heads)[:n], {layer: torch.cat(parts)[:n] for layer, parts in patches.items()}

    def embed_patches(
        self,
        pixels: Tensor,
        layers: Sequence[int],
        attention: str = "qk",
        first: int = 6,
        normalize: bool = True,
    ) -> dict[int, Tensor]:
        """{block: (n, patches, d)}: the local features of `embed_glocal`, with the tower's own attention."""
        return self.embed_glocal(pixels, layers, attention, first, normalize=normalize)[1]

    @torch.no_grad()
    def project_tokens(self, tokens: Tensor) -> Tensor:
        """(n, p, d) in the joint space from patch tokens (n, p, width): last layer norm and projection."""
        self._require_class_token("project_tokens")
        visual = self.model.visual
        return (visual.ln_post(tokens.to(self.device)) @ visual.proj).float().cpu()

    def _scales_of(
        self, batch: Tensor, sizes: Sequence[int], whole: bool, layers: Sequence[int]
    ) -> MultiScaleEmbeddings:
        if self.is_resnet:
            return MultiScaleEmbeddings(*embed_resnet(self.model.visual, batch, sizes), {})
        chunk = max(1, _WINDOW_NUMBERS[self._memory] // self.width)
        options = {"whole": whole, "layers": layers, "chunk_tokens": chunk}
        return vit_windows.embed_scales(self.model.visual, self._blocks, batch, sizes, **options)

    @cached_property
    def _blocks(self) -> list[vit_windows.BlockWeights]:
        """The image tower's blocks in the type that windows are computed in."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return vit_windows.prepare(self.model.visual, dtype)

    def _batches(self, pixels: Tensor, numbers: int, bounds: dict[str, int]) -> Iterator[Tensor]:
        """Images on the device, `bounds` // `numbers` at once. For no image one black image, which callers
        cut off again: open_clip's towers cannot reshape nothing."""
        self._check_pixels(pixels)
        pixels = pixels if len(pixels) else pixels.new_zeros(1, *pixels.shape[1:])
        for batch in pixels.split(max(1, bounds[self._memory] // numbers)):
            yield batch.to(self.device, torch.float32)

    def _padded(self, tokens: tuple[int, ...]) -> int:
        return len(tokens) if self.text_tower else self.context_length

    def _encode_sequences(self, sequences: list[tuple[int, ...]]) -> Tensor:
        """(b, d) of token sequences sorted by length, padded with zeros as open_clip does."""
        length = self._padded(sequences[-1])
        padded = [tokens + (0,) * (length - len(tokens)) for tokens in sequences]
        ids = torch.tensor(padded, device=self.device)  # (b, l)
        with self._autocast():
            if self.text_tower is None:
                return self.model.encode_text(ids, normalize=False).cpu()
            ends = [tokens.index(self.tokenizer.eot_token_id) for tokens in sequences]
            return encode_tokens(self.text_tower, ids, ends).cpu()

    @property
    def _memory(self) -> str:
        return "cpu" if self.device.type == "cpu" else "gpu"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _check_pixels(self, pixels: Tensor) -> None:
        shape = (3, *self.image_size)
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.shape[1:] != shape:
            raise ValueError(
                f"expected images as a float tensor (n, {', '.join(map(str, shape))}), "
                f"got {_describe(pixels)}; stack what encoder.preprocess(image) returns"
            )

    def _require_class_token(self, what: str) -> None:
        if not self.has_class_token:
            raise ValueError(
                f"{what} reads the class token, but {self.model_id} pools its image tokens in another way"
            )


def choose_device(device: str, precision: str) -> torch.device:
    """The device that "auto" or a name means; ValueError if it is not there, or slow in this precision."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r}; expected 'fp32' or 'bf16'")
    has_cuda = torch.cuda.is_available()
    chosen = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)
    if chosen.type == "cuda" and not has_cuda:
        raise ValueError(f"device={device!r}, but torch sees no CUDA GPU; use device='auto' or 'cpu'")
    if precision == "bf16":
        if chosen.type == "cuda":
            supported = torch.cuda.is_bf16_supported()
        else:
            supported = chosen.type != "cpu" or torch.cpu._is_amx_tile_supported()
        if not supported:
            raise ValueError(f"precision='bf16' would be slow on this {chosen.type.upper()}; use 'fp32'")
    return chosen


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, str):
        return f"the single string {value[:40]!r}"
    if isinstance(value, Sequence):
        return (
            f"a {type(value).__name__} of {', '.join(sorted({type(v).__name__ for v in value})) or 'nothing'}"
        )
    return f"a {type(value).__name__}"
