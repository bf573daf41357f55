"""CLIP as one small object: images, windows and sentences to embeddings, on open_clip's own model classes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from zsad_core.devices import Precision, choose_device, fast_products
from zsad_core.dpam import attention_kinds, dual_path
from zsad_core.images import to_rgb
from zsad_core.text import cut, read_ends
from zsad_core.vit_windows import MultiScaleEmbeddings, embed_scales, run_block

# Numbers in the residual stream of one batch, which bounds the memory. Half a million stay in a CPU's cache,
# so small batches are faster as well; windows share more work in larger ones.
_NUMBERS_PER_BATCH = {"cpu": 2**19, "gpu": 2**25}
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

    model: "zsad-mini", the name of an architecture of open_clip (ViT-B-16-plus-240, RN50-quickgelu ...), or
        the path of an open_clip model config (.json).
    weights: None for those that ship with zsad-mini; a pretrained tag of open_clip (downloaded once); the
        path of a checkpoint (safetensors, a torch file of tensors, or a TorchScript archive of OpenAI); or
        "random". Checked by SHA-256 where it is known, by names and shapes always. No unknown code runs.
    device: "auto" (a CUDA GPU if there is one, else the CPU) or a torch device.
    precision: "fp32", or "bf16": matrix products in bfloat16, which leave two digits of the embeddings.
    seed: of random weights. The global random state is left as it was.
    image_size: edge of the square input in pixels when it is not the architecture's own; the position
        embeddings are resized (`checkpoints.resize_grid`). AnomalyCLIP gives 518 to a model of 336.
    Raises ValueError for an unknown architecture, or weights that are not there or do not belong to it (other
    shapes, another activation or checksum); OSError for a tag that cannot be downloaded.

    >>> encoder = load_encoder("zsad-mini", weights="random")
    >>> encoder.image_size, encoder.patch_size, encoder.grid, encoder.dim
    ((96, 96), (12, 12), (8, 8), 192)
    """
    import open_clip  # here, as below: it takes seconds, and who reads kept features needs no network
    from open_clip.utils import to_2tuple

    from zsad_core import checkpoints

    model_id, config, preprocess = checkpoints.read_config(model)
    chosen = choose_device(device, precision)
    source = checkpoints.locate_weights(str(model), weights, config.get("quick_gelu", False), seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the GPUs' generators
        network = open_clip.CLIP(**config)
    if source.path is not None:
        checkpoints.load_weights(network, source.path, model_id)
    if image_size is not None and to_2tuple(network.visual.image_size) != (image_size, image_size):
        checkpoints.resize_grid(network, image_size)
        model_id = f"{model_id}-{image_size}px"
    return ClipEncoder(network.to(chosen), source.preprocess | preprocess, model_id, source, precision)


class ClipEncoder:
    """Embeds images, windows of patches and sentences in CLIP's joint space; made by `load_encoder`.

    Every embed_* takes any number of inputs, works in batches of bounded memory, and returns float32 rows on
    the CPU, L2-normalised unless normalize=False.

    image_size, patch_size: (height, width) in pixels. grid: patches in (rows, columns). A ResNet
        (is_resnet) has the cells of its last feature map instead of patches.
    dim: d, the width of the joint space. depth, width: blocks of the image tower (0 for a ResNet) and
        numbers in one of its tokens.
    has_class_token: whether the image's embedding is its class token.
    text_tower: what holds the text tower's parts. text_depth: its blocks. context_length: in tokens.
    temperature: 1 / exp(logit_scale) of the weights: 0.01 in most trained CLIPs, 0.07 at initialisation.
    model_id, weights_id: names made of content, to key caches with. weights_sha256: None for random ones.
    transform: what `preprocess` does to an RGB image; without the model, so other processes can have it.
    """

    def __init__(
        self, model: nn.Module, preprocess: dict[str, Any], model_id: str, source: Any, precision: Precision
    ) -> None:
        from open_clip import SimpleTokenizer
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
        from open_clip.utils import to_2tuple

        self.model, self.tokenizer = model.eval().requires_grad_(False), SimpleTokenizer()
        self.model_id, self.precision = model_id, precision
        self.weights_id, self.weights_sha256 = source.weights_id, source.sha256
        self.device = model.logit_scale.device
        self._memory = "cpu" if self.device.type == "cpu" else "gpu"
        visual = model.visual
        self.is_resnet = isinstance(visual, ModifiedResNet)
        self.image_size: tuple[int, int] = to_2tuple(visual.image_size)
        self.patch_size: tuple[int, int] = (32, 32) if self.is_resnet else tuple(visual.patch_size)
        self.grid = tuple(edge // patch for edge, patch in zip(self.image_size, self.patch_size))
        self.dim: int = visual.output_dim
        self.depth = 0 if self.is_resnet else len(visual.transformer.resblocks)
        self.width: int = visual.conv1.out_channels
        self.has_class_token = not self.is_resnet
        self.text_tower, self.text_depth = model, len(model.transformer.resblocks)
        self.context_length: int = model.context_length
        self.temperature = 1 / model.logit_scale.exp().item()
        preprocess = merge_preprocess_dict(PreprocessCfg(), {**preprocess, "size": self.image_size})
        self.transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)

    def preprocess(self, image: Image.Image) -> Tensor:
        """open_clip's evaluation pipeline, with centre crop: (3, H, W) from a PIL image of any size."""
        return self.transform(to_rgb(image))

    def tokenize(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each prompt from the start token to the end token, neither cut nor padded."""
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [(start, *self.tokenizer.encode(prompt), end) for prompt in prompts]

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str], normalize: bool = True) -> Tensor:
        """(n, d) embeddings of n prompts: open_clip's `encode_text` in less time, since equal prompts are
        encoded once and without padding. One longer than the context loses its end, with a warning."""
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise TypeError(f"embed_text expects a list of sentences, got {prompts!r:.80}")
        unique = list(dict.fromkeys(prompts))
        sequences = cut(dict(zip(unique, self.tokenize(unique), strict=True)), self.context_length)
        order = sorted(set(sequences.values()), key=lambda tokens: (len(tokens), tokens))
        parts = [torch.empty(0, self.dim), *map(self._encode_text, self._text_batches(order))]
        row_of = {tokens: row for row, tokens in enumerate(order)}
        embeddings = torch.cat(parts)[[row_of[sequences[prompt]] for prompt in prompts]]  # (n, d)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @torch.no_grad()
    def embed_images(self, pixels: Tensor, normalize: bool = True, final_norm: bool = True) -> Tensor:
        """(n, d) embeddings of preprocessed images (n, 3, H, W). final_norm: False leaves the class token
        without the last layer norm, as `embed_glocal` does."""
        if self.has_class_token or not final_norm:
            return self.embed_glocal(pixels, (), "qk", final_norm=final_norm, normalize=normalize)[0]
        parts = []
        for batch in self._batches(pixels, math.prod(self.grid) * self.width, _NUMBERS_PER_BATCH):
            with self._computing():
                parts.append(self.model.encode_image(batch, normalize=False).float().cpu())  # (b, d)
        embeddings = torch.cat(parts)[: len(pixels)]
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def embed_windows(self, pixels: Tensor, size: int) -> Tensor:
        """(n, n_windows, d) embeddings of all windows of size x size patches, as `windows.window_indices` has
        them (WinCLIP, Sec. 4.2, Eq. 2): other patches are dropped before the first block."""
        return self.embed_scales(pixels, (size,), whole=False).windows[size]

    @torch.no_grad()
    def embed_scales(
        self, pixels: Tensor, sizes: Sequence[int] = (2, 3), *, whole: bool = True, layers: Sequence[int] = ()
    ) -> MultiScaleEmbeddings:
        """The whole image, all windows of several sizes and patch tokens, from one pass that shares the work.

        whole: False leaves the whole image out. layers: 1-based blocks whose patch tokens are returned as
            they leave the block, neither normalised nor projected (WinCLIP's F^P is the last block's).
        Raises ValueError for a window larger than the grid or a block that does not exist.
        """
        from zsad_core.resnet_windows import embed_resnet

        visual, n, found = self.model.visual, len(pixels), []
        if not self.is_resnet:
            self._require_class_token("embed_windows")
        elif layers:
            raise ValueError(f"layers={tuple(layers)}: {self.model_id} is a ResNet and has no patch tokens")
        chunk = max(1, _WINDOW_NUMBERS[self._memory] // self.width)
        for batch in self._batches(pixels, math.prod(self.grid) * 3 * self.dim, _WINDOW_NUMBERS):
            if self.is_resnet:
                found.append(MultiScaleEmbeddings(*embed_resnet(visual, batch, sizes), {}))
                continue
            with self._computing():
                found.append(embed_scales(visual, batch, sizes, whole, layers, chunk))
        return MultiScaleEmbeddings(
            F.normalize(torch.cat([part.image for part in found])[:n], dim=-1) if whole else None,
            {s: F.normalize(torch.cat([part.windows[s] for part in found])[:n], dim=-1) for s in sizes},
            {layer: torch.cat([part.layers[layer] for part in found])[:n] for layer in layers},
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
            (`dpam.dual_path`), or an ensemble such as "qq+kk+vv": the mean of its kinds' unit rows, so that
            its cosine with a text is the mean of theirs (App. D); do not normalise it again.
        layers: 1-based. Local features get the last layer norm and the projection.
        final_norm: whether the global feature gets this norm too; without, as in the authors' code.
        """
        return self.embed_glocals(pixels, [(layers, attention, final_norm)], first, normalize)[0]

    @torch.no_grad()
    def embed_glocals(
        self,
        pixels: Tensor,
        wanted: Sequence[tuple[Sequence[int], str, bool]],
        first: int = 6,
        normalize: bool = True,
    ) -> list[tuple[Tensor, dict[int, Tensor]]]:
        """`embed_glocal` of several (layers, attention, final_norm), in one pass through the blocks."""
        self._require_class_token("embed_glocal")
        visual = self.model.visual
        each = [(own, attention_kinds(attention), norm) for own, attention, norm in wanted]
        pairs = dict.fromkeys((kind, layer) for own, kinds, _ in each for kind in kinds for layer in own)
        layers = sorted({layer for own, _, _ in each for layer in own})
        kinds = tuple(dict.fromkeys(kind for _, own, _ in each for kind in own))
        found: dict[tuple, list[Tensor]] = defaultdict(list)

        def unit(x: Tensor) -> Tensor:
            x = (x @ visual.proj).float()
            return F.normalize(x, dim=-1) if normalize else x

        for batch in self._batches(pixels, math.prod(self.grid) * self.width, _NUMBERS_PER_BATCH):
            with self._computing():
                token, tokens = dual_path(visual, batch, layers, kinds, first)
                rows = {(k, layer): unit(visual.ln_post(tokens[k][layer][:, 1:])) for k, layer in pairs}
                for i, (own, own_kinds, norm) in enumerate(each):
                    found[i, "head"].append(unit(visual.ln_post(token) if norm else token).cpu())
                    for layer in own:  # (b, patches, d)
                        mean = sum(rows[k, layer] for k in own_kinds) / len(own_kinds)
                        found[i, layer].append(mean.cpu())
        whole = {key: torch.cat(parts)[: len(pixels)] for key, parts in found.items()}
        return [(whole[i, "head"], {n: whole[i, n] for n in own}) for i, (own, _, _) in enumerate(each)]

    def embed_patches(
        self, pixels: Tensor, layers: Sequence[int], attention: str = "qk", first: int = 6, **options: bool
    ) -> dict[int, Tensor]:
        """{block: (n, patches, d)}: the local features of `embed_glocal`, with the tower's own attention."""
        return self.embed_glocal(pixels, layers, attention, first, **options)[1]

    @torch.no_grad()
    def project_tokens(self, tokens: Tensor) -> Tensor:
        """(n, p, d) in the joint space from patch tokens (n, p, width): last layer norm and projection."""
        self._require_class_token("project_tokens")
        visual = self.model.visual
        return (visual.ln_post(tokens.to(self.device)) @ visual.proj).float().cpu()

    def _batches(self, pixels: Tensor, numbers: int, bounds: dict[str, int]) -> Iterator[Tensor]:
        """Images on the device, `bounds` // `numbers` at once; for no image a black one, to be cut off."""
        shape = (3, *self.image_size)
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.shape[1:] != shape:
            dtype, own = getattr(pixels, "dtype", None), tuple(getattr(pixels, "shape", ()))
            expected = f"expected images as a float tensor (n, {', '.join(map(str, shape))})"
            found = f"{type(pixels).__name__} {own} of {dtype}"
            raise ValueError(f"{expected}, got {found}; stack what encoder.preprocess(image) returns")
        pixels = pixels if len(pixels) else pixels.new_zeros(1, *shape)
        for batch in pixels.split(max(1, bounds[self._memory] // numbers)):
            yield batch.to(self.device, torch.float32)

    def _text_batches(self, order: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        """Token sequences, sorted by length, in batches of bounded memory; the longest sets their size."""
        width, start = self.text_tower.token_embedding.embedding_dim, 0
        bound = _NUMBERS_PER_BATCH[self._memory] // width  # tokens
        for stop, tokens in enumerate(order):
            if stop > start and stop - start >= bound // len(tokens):
                yield order[start:stop]
                start = stop
        if order:
            yield order[start:]

    def _encode_text(self, sequences: Sequence[tuple[int, ...]]) -> Tensor:
        """(b, d) of token sequences sorted by length."""
        tower, length = self.text_tower, len(sequences[-1])
        ids = torch.tensor([t + (0,) * (length - len(t)) for t in sequences], device=self.device)  # (b, l)
        with self._computing():
            x = tower.token_embedding(ids) + tower.positional_embedding[:length]  # (b, l, width)
            for block in tower.transformer.resblocks[:-1]:
                x = run_block(block, x, causal=True)
            ends = [tokens.index(self.tokenizer.eot_token_id) for tokens in sequences]
            return read_ends(tower, x, torch.tensor(ends, device=self.device)).cpu()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with fast_products(self.device), bf16:
            yield

    def _require_class_token(self, what: str) -> None:
        if not self.has_class_token:
            raise ValueError(f"{what} reads the class token, which {self.model_id}, a ResNet, does not have")
