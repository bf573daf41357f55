"""What the studies ask the encoders for, computed before they run, by dataset, category and shard.

A study computes what it does not find, so nothing here is needed; but a study is one process, and these are
as many as there are machines. `python -m zsad_papers.precompute --help` has the command.

Left to the studies: the CLIPs of `clip_backbones`, RD4AD and its images, mosaics for VAND, and texts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from tqdm import tqdm

from zsad_core import prompts
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, compute_parts, embed_images, random_word_embeddings
from zsad_core.shards import KINDS, SHARD
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip.experiments import extractors_of
from zsad_papers.anomalyclip.tables import ROLES, variants_of
from zsad_papers.baselines.backbones import Backbone, backbone_of
from zsad_papers.baselines.tiling import tiling_extractor
from zsad_papers.common import data
from zsad_papers.common.data import dataset_named, encoder_of
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings, read_settings
from zsad_papers.winclip.experiments import baseline_extractor, few_shot_design, generic_extractor

COMPARED = ("mvtec", "visa")
"""The roles with ablations, references and baselines; on the others the main methods are measured alone."""


def compute(
    settings: Settings, kind: str, name: str, category: str | None = None, shard: int | None = None
) -> str:
    """Let the cache hold the features of a prepared dataset; a line that tells what was done.

    kind: of `shards.KINDS`. views: of whole images, for RWDA and for WinCLIP's image scores. winclip: windows
        and patch tokens. backbone: maps of the few-shot baselines' network. anomalyclip: local features, of
        every attention, and VAND's.
    name: `name` or `name/category`, as in `settings.datasets`. category, shard: only these; None: all.
    Raises ValueError for an unknown kind or category, or a negative shard.
    """
    if kind not in KINDS or (shard or 0) < 0:
        raise ValueError(
            f"features {kind!r}, shard {shard}: expected one of {', '.join(KINDS)}, and 0 or more"
        )
    encoder = data.prompt_encoder(settings) if kind == "anomalyclip" else encoder_of(settings)
    backbone = backbone_of(settings) if kind in ("winclip", "backbone") else None
    dataset, images = dataset_named(settings, name), 0
    for own in [category] if category is not None else dataset.categories:
        part = dataset.select(own)
        roles = _roles(settings, encoder, dataset, own)
        if kind == "views":
            images += embed_images(encoder, part, settings.cache_dir, shard=shard)
        counts = [0]
        for role, c in roles.items():
            if kind == "views":
                _views(c, role, shard)
            elif kind == "anomalyclip":
                counts.append(_local_features(c, role, shard))
            elif kind == "winclip":
                counts.append(_windows(c, role, shard, backbone))
            elif backbone is not None and role in COMPARED:
                counts.append(_baselines(c, shard, backbone))
        images += max(counts)  # one category may stand in several places
    return f"{dataset.name}: {images} images"


def _roles(
    settings: Settings, encoder: ClipEncoder, dataset: AnomalyDataset, category: str
) -> dict[str, Category]:
    """The roles that the category has a part in, and it as their studies know it."""
    folder, found = dataset.root.name, {}
    for role, value in settings.datasets.items():
        if value in (folder, f"{folder}/{category}") and role in ROLES:
            whole = dataset if value == dataset.name else dataset_named(settings, value)
            found[role] = Category(settings, encoder, whole, category)
    return found


def _views(c: Category, role: str, shard: int | None) -> None:
    """Tiles and crops of images that are not square, for `winclip_studies.language`."""
    if role in COMPARED or len(set(c.test.labels.tolist())) == 2:
        for whole in ("tiles", "center_crop"):
            images, options = c.viewed(whole)
            if options:
                embed_images(c.encoder, images, c.settings.cache_dir, shard=shard, **options)


def _windows(c: Category, role: str, shard: int | None, backbone: Backbone | None) -> int:
    """For `zero_shot`, `generic`, `tiling`, `few_shot` and `left_open`; with the first shard also of the
    references that are drawn from the training images. How many test images it is of, as below."""
    settings, count = c.settings, 0
    if role in COMPARED or data.has_masks(c.test):
        count = _compute(c, c.clip, c.test, shard)
    if role not in COMPARED:
        return count
    squashed = replace(c, whole="squash")
    _compute(squashed, c.clip, c.test, shard)
    _compute(c, generic_extractor(c), c.test, shard)
    if role == "mvtec":
        _compute(c, tiling_extractor(c.encoder, settings.scales), c.test, shard)
    if backbone is None:
        _baselines(c, shard, None)
    if not shard:
        c.references(c.draws(few_shot_design(settings, role)[0]), c.clip)
        for other in (c, squashed):
            other.references(other.draws([1]), c.clip)
        if role == "mvtec" or backbone is None:
            c.references(c.draws(settings.shots), c.clip)
    return count


def _baselines(c: Category, shard: int | None, backbone: Backbone | None) -> int:
    """For `few_shot_baselines` and `full_shot`, which takes all training images as references."""
    extractor = baseline_extractor(c, backbone)
    _compute(c, extractor, c.train, shard)
    if not shard and backbone is not None:
        c.references(c.draws(c.settings.shots), extractor)
    return _compute(c, extractor, c.test, shard)


def _local_features(c: Category, role: str, shard: int | None) -> int:
    """For `anomalyclip_studies.study`, and for learning prompts for other datasets from these images."""
    c, settings = replace(c, whole="squash"), c.settings
    learners = [
        r for r in ROLES if settings.datasets.get(r) and anomalyclip_experiments.auxiliary_role(r) == role
    ]
    variants = [name for r in (role, *learners) for name in variants_of(settings, r)]
    extractors = extractors_of(c.encoder, variants)
    count = max(_compute(c, extractor, c.test, shard) for extractor in extractors)
    if role == anomalyclip_experiments.MEDICAL:  # of which prompts are learned on all images
        for extractor in extractors_of(c.encoder, ["tuned=medical", "vand"]):
            _compute(c, extractor, c.dataset.select(c.name), shard)
    return count


def _compute(c: Category, extractor: Extractor, images: AnomalyDataset, shard: int | None) -> int:
    return compute_parts(extractor, images, c.settings.cache_dir, whole=c.whole, shard=shard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--category", help="only this one")
    parser.add_argument("--shard", type=int, help=f"only this one of the category, {SHARD} images, from 0")
    parser.add_argument("--features", choices=KINDS, default="views", help="of what (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="a prepared dataset in data_dir: name or name/category")
    what.add_argument("--texts", action="store_true", help="the random-word prompts of every word pair")
    arguments = parser.parse_args()
    settings = read_settings({"profile": arguments.profile})
    if arguments.dataset:
        where = (arguments.dataset, arguments.category, arguments.shard)
        print(compute(settings, arguments.features, *where))
        return
    encoder = encoder_of(settings)
    options = {"seed": settings.seed, "alphabet": prompts.ALPHABETS[settings.alphabet]}
    # each word once: eight sets of sentences for 16 pairs of words
    pairs = list(zip(prompts.NORMAL_WORDS, prompts.ANOMALY_WORDS, strict=True))
    for normal, anomaly in tqdm(pairs, desc="random-word prompts"):
        random_word_embeddings(encoder, settings.cache_dir, settings.pool_pairs, normal, anomaly, **options)
    print(
        f"random-word prompts: {settings.pool_pairs} of each of {2 * len(pairs)} words, {encoder.weights_id}"
    )


if __name__ == "__main__":
    main()
