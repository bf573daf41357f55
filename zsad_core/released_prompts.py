"""Reads the prompts that AnomalyCLIP's authors released: a torch file, not this book's own format."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from zsad_core.checkpoints import read_content
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import SIDES, PromptDesign, text_tower
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts

_ENDS = dict(zip(SIDES, ("pos", "neg"), strict=True))
"""What the file calls the sides: positive is the normal prompt, negative the one with the word "damaged"."""
_DEEP, _UNUSED = "compound_prompts_text.", "compound_prompt_projections."


def read_released(path: str | Path, encoder: ClipEncoder) -> LearnedPrompts:
    """Prompts from a checkpoint of the official code, for the encoder that they were learned with.

    path: a torch file with one entry, `prompt_learner`: contexts `ctx_pos` and `ctx_neg` (1, 1, E, width),
        deep tokens `compound_prompts_text.<set>` (L, width), and what only repeats the encoder: ids and
        embeddings of the templates. Its linear layers are used nowhere, there or here. No pickled code runs.
    encoder: for the authors' own files ViT-L-14-336-quickgelu with OpenAI's weights and image_size=518. A
        UserWarning says so when the embeddings in the file are not this encoder's.

    The config is "released" with E, L and M as the shapes tell, and half=True, as in the code that made the
    file. The file does not tell which images it was learned from: `trained_on` is empty, and
    `refuse_training_images` cannot refuse any.
    Raises FileNotFoundError, or ValueError for a file that is cut off, holds code or other entries, or does
    not fit the encoder's text tower or the templates.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with released prompts; correct the path")
    content = read_content(path)
    state = content.get("prompt_learner") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path}: expected tensors by name under 'prompt_learner', as AnomalyCLIP's code saves"
        )
    deep = [f"{_DEEP}{number}" for number in range(sum(name.startswith(_DEEP) for name in state))]
    _check_names(path, state, deep)
    rows, length = _check_shapes(path, state, deep, encoder)
    sizes = {"context_length": rows, "depth": len(deep) + 1, "length": length}
    config = prompt_config_of(encoder, "released", **sizes, half=True)
    _check_templates(path, state, config.design, encoder)

    parameters = {f"context/{side}": state[f"ctx_{end}"][0, 0] for side, end in _ENDS.items()}
    # the file counts sets from 0; the first of them goes in before the second block
    parameters |= {f"deep/{block}": state[name] for block, name in enumerate(deep, start=2)}
    parameters = {name: value.float().contiguous() for name, value in parameters.items()}
    nothing = torch.empty(0, dtype=torch.int64)
    return LearnedPrompts(parameters, config.key(), encoder.model_id, encoder.weights_id, nothing)


def _check_names(path: Path, state: dict[str, Tensor], deep: list[str]) -> None:
    named = lambda *kinds: {f"{kind}_{end}" for kind in kinds for end in _ENDS.values()}  # noqa: E731
    needed = named("ctx", "tokenized_prompts") | set(deep)
    known = needed | named("token_prefix", "token_suffix")
    missing = sorted(needed - set(state))
    unknown = sorted(name for name in set(state) - known if not name.startswith(_UNUSED))
    if missing or unknown:
        listed = {"lacks": missing, "has besides": unknown}
        raise ValueError(
            f"{path} holds no prompts of AnomalyCLIP: it "
            + " and ".join(f"{what} {', '.join(names)}" for what, names in listed.items() if names)
        )


def _check_shapes(
    path: Path, state: dict[str, Tensor], deep: list[str], encoder: ClipEncoder
) -> tuple[int, int]:
    """E and L. Raises ValueError unless contexts and deep tokens fit each other and the text tower."""
    tower = text_tower(encoder)
    width, blocks = tower.token_embedding.embedding_dim, encoder.text_depth
    if len(deep) >= blocks:
        raise ValueError(
            f"{path} has deep tokens for blocks 2 to {len(deep) + 1}, but the text tower of "
            f"{encoder.model_id} has {blocks} blocks; load the encoder that the prompts were learned with"
        )
    rows = state["ctx_pos"].shape[2] if state["ctx_pos"].ndim == 4 else 1
    length = len(state[deep[0]]) if deep else 0
    expected = {f"ctx_{end}": (1, 1, rows, width) for end in _ENDS.values()}
    expected |= dict.fromkeys(deep, (length, width))
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, expected {shape} for the text tower "
                f"of {encoder.model_id}; load the encoder that the prompts were learned with"
            )
    return rows, length


def _check_templates(
    path: Path, state: dict[str, Tensor], design: PromptDesign, encoder: ClipEncoder
) -> None:
    """ValueError unless the token ids are those of the templates; a warning when the embeddings are not."""
    tokens = encoder.tokenize(design.sentences())
    known = True
    for end, sentence, ids in zip(_ENDS.values(), design.sentences(), tokens, strict=True):
        found = state[f"tokenized_prompts_{end}"].flatten().tolist()
        wanted = [*ids, *[0] * (encoder.context_length - len(ids))]
        if found != wanted:
            raise ValueError(
                f"{path}: tokenized_prompts_{end} begins with {found[: len(ids)]}, but {sentence!r} is "
                f"{list(ids)}, padded with zeros to {encoder.context_length}: these prompts have another "
                "template"
            )
        embeddings = text_tower(encoder).token_embedding(torch.tensor(wanted, device=encoder.device)).cpu()
        around = {"prefix": embeddings[:1], "suffix": embeddings[1 + design.context_length :]}
        for name, value in around.items():
            own = state.get(f"token_{name}_{end}", value).float()
            known &= own.numel() == value.numel() and torch.allclose(
                own.reshape(value.shape), value, atol=1e-4
            )
    if not known:
        warnings.warn(
            f"the words in {path} are embedded in another way than by {encoder.model_id}, weights "
            f"{encoder.weights_id}: the prompts were learned with another encoder and may mean nothing to it",
            stacklevel=3,
        )
