"""What the studies ask the encoders for, computed before they run, by dataset and category.

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
from zsad_core.image_features import compute_features, random_word_embeddings, view_extractor
from zsad_papers.anomalyclip import COMPARED, ROLES
from zsad_papers.anomalyclip.experiments import MEDICAL, auxiliary_role, extractors_of
from zsad_papers.anomalyclip.tables import variants_of
from zsad_papers.baselines.backbones import Backbone, backbone_of
from zsad_papers.baselines.detectors import baseline_extractor
from zsad_papers.baselines.tiling import tiling_extractor
from zsad_papers.common import data
from zsad_papers.common.data import dataset_named, encoder_of
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings, read_settings
from zsad_papers.winclip.experiments import few_shot_design, other_localization_extractor

KINDS = ("views", "winclip", "backbone", "anomalyclip")
"""Of features that are computed ahead, see `compute`."""


def compute(settings: Settings, kind: str, name: str, category: str | None = None) -> str:
    """Let the cache hold the features of a prepared dataset; a line that says of how many images.

    kind: of `KINDS`. views: of whole images, for RWDA and for WinCLIP's image scores. winclip: windows and
        patch tokens. backbone: maps of the few-shot baselines' network. anomalyclip: local features, of every
        attention, and VAND's.
    name: `name` or `name/category`, as in `settings.datasets`. category: only this one; None: all.
    Raises ValueError for an unknown kind or category.
    """
    if kind not in KINDS:
        raise ValueError(f"features {kind!r}: expected one of {', '.join(KINDS)}")
    encoder = data.prompt_encoder(settings) if kind == "anomalyclip" else encoder_of(settings)
    backbone = backbone_of(settings) if kind in ("winclip", "backbone") else None
    dataset = dataset_named(settings, name)
    chosen = dataset.select(category)
    if kind == "views":
        compute_features(view_extractor(encoder), chosen, settings.cache_dir, whole="squash")
    for own in chosen.categories:
        for role, found in _roles(settings, encoder, dataset, own).items():
            if kind == "views":
                _views(found, role)
            elif kind == "anomalyclip":
                _local_features(found, role)
            elif kind == "winclip":
                _windows(found, role, backbone)
            elif backbone is not None and role in COMPARED:
                _baselines(found, backbone)
    return f"{dataset.name}: {len(chosen)} images"


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


def _views(category: Category, role: str) -> None:
    """Tiles and crops of images that are not square, for `winclip.experiments.zero_shot_classification`."""
    if role in COMPARED or len(set(category.test.labels.tolist())) == 2:
        for whole in ("tiles", "center_crop"):
            images, options = category.viewed(whole)
            if options:
                extractor = view_extractor(category.encoder)
                compute_features(extractor, images, category.settings.cache_dir, **options)


def _windows(category: Category, role: str, backbone: Backbone | None) -> None:
    """For `zero_shot`, `other_localization`, `tiling`, `few_shot` and `open_choices`, with the references
    that are drawn from the training images."""
    settings = category.settings
    if role in COMPARED or data.has_masks(category.test):
        category.computed(category.clip, category.test)
    if role not in COMPARED:
        return
    squashed = replace(category, whole="squash")
    squashed.computed(category.clip, category.test)
    category.computed(other_localization_extractor(category), category.test)
    if role == "mvtec":
        category.computed(tiling_extractor(category.encoder, settings.scales), category.test)
    if backbone is None:
        _baselines(category, None)
    category.references(category.draws(few_shot_design(settings, role)[0]), category.clip)
    for other in (category, squashed):
        other.references(other.draws([1]), category.clip)
    if role == "mvtec" or backbone is None:
        category.references(category.draws(settings.shots), category.clip)


def _baselines(category: Category, backbone: Backbone | None) -> None:
    """For `few_shot_baselines` and `full_shot`, which takes all training images as references."""
    extractor = baseline_extractor(category, backbone)
    category.computed(extractor, category.train)
    if backbone is not None:
        category.references(category.draws(category.settings.shots), extractor)
    category.computed(extractor, category.test)


def _local_features(category: Category, role: str) -> None:
    """For `anomalyclip.experiments`, and for learning prompts for other datasets from these images."""
    category, settings = replace(category, whole="squash"), category.settings
    learners = [r for r in ROLES if settings.datasets.get(r) and auxiliary_role(r) == role]
    variants = [name for r in (role, *learners) for name in variants_of(settings, r)]
    for extractor in extractors_of(category.encoder, variants):
        category.computed(extractor, category.test)
    if role == MEDICAL:  # of which prompts are learned on all images
        for extractor in extractors_of(category.encoder, ["tuned=medical", "vand"]):
            category.computed(extractor, category.dataset.select(category.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--category", help="only this one")
    parser.add_argument("--features", choices=KINDS, default="views", help="of what (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="a prepared dataset in data_dir: name or name/category")
    what.add_argument("--texts", action="store_true", help="the random-word prompts of every word pair")
    arguments = parser.parse_args()
    settings = read_settings({"profile": arguments.profile})
    if arguments.dataset:
        print(compute(settings, arguments.features, arguments.dataset, arguments.category))
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
