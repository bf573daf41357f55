"""Reads the prompts that AnomalyCLIP's authors released: a torch file, not this book's own format."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from zsad_core.checkpoints import read_content
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import SIDES
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts

_ENDS = dict(zip(SIDES, ("pos", "neg"), strict=True))  # positive is the normal prompt
_DEEP, _UNUSED = "compound_prompts_text.", "compound_prompt_projections."


def read_released(path: str | Path, encoder: ClipEncoder) -> LearnedPrompts:
    """Prompts from a checkpoint of the official code, for the encoder that they were learned with.

    path: a torch file with one entry, `prompt_learner`: contexts `ctx_pos` and `ctx_neg` (1, 1, E, width),
        deep tokens `compound_prompts_text.<set>` (L, width), and ids and embeddings of the templates, which
        repeat the encoder. The file's linear layers are not used. No pickled code runs.
    encoder: for the authors' own files ViT-L-14-336-quickgelu with OpenAI's weights and image_size=518.
    `trained_on` is empty: the file does not record its training images.
    Raises FileNotFoundError, or ValueError. A UserWarning says if words were embedded by another encoder."""
    content = read_content(path := Path(path))
    state = content.get("prompt_learner") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected tensors by name in 'prompt_learner', as AnomalyCLIP saves")
    deep = [f"{_DEEP}{number}" for number in range(sum(name.startswith(_DEEP) for name in state))]
    sizes = _check_shapes(path, state, deep, encoder)
    config = prompt_config_of(encoder, "released", **sizes, half=True)
    _check_templates(path, state, config.design.sentences(), encoder)

    parameters = {f"context/{side}": state[f"ctx_{end}"][0, 0] for side, end in _ENDS.items()}
    # the file counts sets from 0; the first of them goes in before the second block
    parameters |= {f"deep/{block}": state[name] for block, name in enumerate(deep, start=2)}
    parameters = {name: value.float().contiguous() for name, value in parameters.items()}
    nothing = torch.empty(0, dtype=torch.int64)
    return LearnedPrompts(parameters, config.key(), encoder.model_id, encoder.weights_id, nothing)


def _check_shapes(path: Path, state: dict[str, Tensor], deep: list[str], encoder: ClipEncoder) -> dict:
    """E, M and L. Raises ValueError unless all entries are there, fit each other and the text tower."""
    width, context = encoder.text_tower.token_embedding.embedding_dim, encoder.context_length
    rows = torch.atleast_2d(state.get("ctx_pos", torch.empty(0))).shape[-2]
    length = len(state[deep[0]]) if deep and deep[0] in state else 0
    expected = {}
    for end in _ENDS.values():
        expected |= {f"ctx_{end}": (1, 1, rows, width), f"tokenized_prompts_{end}": (1, 1, context)}
        expected |= {f"token_prefix_{end}": (1, 1, 1, width)}
        expected |= {f"token_suffix_{end}": (1, 1, context - 1 - rows, width)}
    expected |= dict.fromkeys(deep, (length, width))
    found = {name: tuple(v.shape) for name, v in state.items() if not name.startswith(_UNUSED)}
    advice = f"text tower of {encoder.model_id}; load the encoder that the prompts were learned with"
    for name in {**expected, **found}:
        wanted, own = (shapes.get(name, "no entry") for shapes in (expected, found))
        if wanted != own:
            raise ValueError(f"{path}: {name} has shape {own}, expected {wanted} for the {advice}")
    if len(deep) >= encoder.text_depth:
        blocks = f"blocks 2 to {len(deep) + 1}, expected at most {encoder.text_depth} for the"
        raise ValueError(f"{path} has deep tokens for {blocks} {advice}")
    return {"context_length": rows, "depth": len(deep) + 1, "length": length}


def _check_templates(
    path: Path, state: dict[str, Tensor], sentences: tuple[str, ...], encoder: ClipEncoder
) -> None:
    """ValueError unless the token ids are those of the templates; a warning when the embeddings are not."""
    known = True
    for end, sentence, ids in zip(_ENDS.values(), sentences, encoder.tokenize(sentences), strict=True):
        name = f"tokenized_prompts_{end}"
        found = state[name].flatten()
        wanted = torch.tensor([*ids, *[0] * (encoder.context_length - len(ids))])
        if not torch.equal(found.long(), wanted):
            why = f"{sentence!r} is {list(ids)}, padded with zeros: these prompts have another template"
            raise ValueError(f"{path}: {name} begins with {found[: len(ids)].tolist()}, but {why}")
        own = torch.cat([state[f"token_{part}_{end}"][0, 0] for part in ("prefix", "suffix")]).float()
        words = encoder.text_tower.token_embedding(wanted.to(encoder.device)).cpu()  # (context, width)
        known &= torch.allclose(own, words[[0, *range(1 - len(own), 0)]], atol=1e-4)
    if not known:
        what = f"the words in {path} are embedded in another way than by {encoder.model_id}"
        why = "the prompts were learned with another encoder and may mean nothing to it"
        warnings.warn(f"{what}, weights {encoder.weights_id}: {why}", stacklevel=3)
