"""The features that experiments need, computed before they run, by dataset and category.

An experiment computes missing features itself, in one process; these jobs can run on many machines. The
experiments still compute the CLIPs of `clip_backbones`, RD4AD and its images, mosaics for VAND, and texts.
"""

import argparse
from dataclasses import replace

from tqdm import tqdm

from zsad_core import prompts
from zsad_core.image_features import (
    compute_features,
    compute_together,
    random_word_embeddings,
    view_extractor,
)
from zsad_papers.anomalyclip import COMPARED, DATASETS
from zsad_papers.anomalyclip.experiments import extractors_of
from zsad_papers.anomalyclip.learning import MEDICAL, auxiliary_dataset
from zsad_papers.anomalyclip.tables import variants_of
from zsad_papers.baselines.backbones import Backbone, backbone_of
from zsad_papers.baselines.detectors import as_baselines_see
from zsad_papers.baselines.tiling import tiling_extractor
from zsad_papers.common.data import dataset_named, encoder_of, has_masks
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings, read_settings
from zsad_papers.winclip.experiments import few_shot_design, other_localization_extractor

KINDS = ("views", "winclip", "backbone", "anomalyclip")
"""views: of whole images, for RWDA and for WinCLIP's image scores. winclip: windows and patch tokens.
backbone: maps of the few-shot baselines' network. anomalyclip: local features of every attention, VAND's."""


def compute(settings: Settings, kind: str, name: str, category: str | None = None) -> str:
    """Compute the features of one of `KINDS` of a prepared dataset; returns a line with its name and size.
    name: `name` or `name/category`, as in `settings.datasets`. category: only this one; None: all."""
    encoder = encoder_of(settings, "prompt_" if kind == "anomalyclip" else "")
    backbone = backbone_of(settings) if kind in ("winclip", "backbone") else None
    images = dataset_named(settings, name)
    chosen, folder = images.select(category), images.root.name
    if kind == "views":
        compute_features(view_extractor(encoder), chosen, settings.cache_dir, whole="squash")
    for own in chosen.categories:
        for dataset, value in settings.datasets.items():
            if dataset not in DATASETS or value not in (folder, f"{folder}/{own}"):
                continue
            whole = images if value == images.name else dataset_named(settings, value)
            found = Category(settings, encoder, whole, own)
            if kind == "views":
                _views(found, dataset)
            elif kind == "anomalyclip":
                _local_features(found, dataset)
            elif kind == "winclip":
                _windows(found, dataset, backbone)
            elif backbone is not None and dataset in COMPARED:
                _baselines(found, backbone)
    return f"{images.name}: {len(chosen)} images"


def _views(category: Category, dataset: str) -> None:
    """Tiles and crops of images that are not square, for `winclip.experiments.zero_shot_classification`."""
    if dataset in COMPARED or len(set(category.test.labels.tolist())) == 2:
        extractor, cache = view_extractor(category.encoder), category.settings.cache_dir
        for images, options in map(category.viewed, ("tiles", "center_crop")):
            if options:
                compute_features(extractor, images, cache, **options)


def _windows(category: Category, dataset: str, backbone: Backbone | None) -> None:
    """For `zero_shot`, `other_localization`, `tiling`, `few_shot` and `open_choices`, with the references
    that are drawn from the training images."""
    settings = category.settings
    if dataset in COMPARED or has_masks(category.test):
        category.computed(category.clip, category.test)
    if dataset not in COMPARED:
        return
    squashed = category.seen("squash")
    squashed.computed(category.clip, category.test)
    squashed.references(category.draws([1]), category.clip)
    category.computed(other_localization_extractor(category), category.test)
    shots = [few_shot_design(settings, dataset)[0], [1]]
    if dataset == "mvtec":
        category.computed(tiling_extractor(category.encoder, settings.scales), category.test)
    if dataset == "mvtec" or backbone is None:
        shots.append(settings.shots)
    if backbone is None:
        _baselines(category, None)
    for numbers in shots:
        category.references(category.draws(numbers), category.clip)


def _baselines(category: Category, backbone: Backbone | None) -> None:
    """For `few_shot_baselines` and `full_shot`, which takes all training images as references."""
    for tiled in (False, True):  # the same for a CLIP, and for square images
        own, extractor = as_baselines_see(category, backbone, tiled)
        own.computed(extractor, own.train)
        if backbone is not None:
            own.references(own.draws(own.settings.shots), extractor)
        own.computed(extractor, own.test)


def _local_features(category: Category, dataset: str) -> None:
    """For `anomalyclip.experiments`, and for learning prompts for other datasets from these images."""
    category, settings = replace(category, whole="squash"), category.settings
    learners = [r for r in DATASETS if settings.datasets.get(r) and auxiliary_dataset(r) == dataset]
    variants = [name for r in (dataset, *learners) for name in variants_of(settings, r)]
    extractors = extractors_of(category.encoder, variants)
    compute_together(extractors, category.test, settings.cache_dir)
    for extractor in extractors:
        category.computed(extractor, category.test)
    if dataset == MEDICAL:  # prompts are learned on all of its images
        for extractor in extractors_of(category.encoder, ["tuned=medical", "vand"]):
            category.computed(extractor, category.dataset.select(category.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="a name in profiles/, or a YAML file")
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
    encoder, number = encoder_of(settings), settings.pool_pairs
    options = {"seed": settings.seed, "alphabet": prompts.ALPHABETS[settings.alphabet]}
    pairs = list(zip(prompts.NORMAL_WORDS, prompts.ANOMALY_WORDS, strict=True))  # each word once
    for normal, anomaly in tqdm(pairs, desc="random-word prompts"):
        random_word_embeddings(encoder, settings.cache_dir, number, normal=normal, anomaly=anomaly, **options)
    print(f"random-word prompts: {number} of each of {2 * len(pairs)} words")


if __name__ == "__main__":
    main()
