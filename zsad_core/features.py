"""What the studies ask the encoders for, computed before they run, by dataset, category and shard.

A study computes what it does not find, so nothing here is needed; but a study is one process, and these are
as many as there are machines. `python -m zsad_core.embeddings --help` has the command.

Left to the studies: the CLIPs of `clip_backbones`, RD4AD and its images, mosaics for VAND, and texts.
"""

from __future__ import annotations

from dataclasses import replace

from zsad_core import anomalyclip as ac
from zsad_core.anomalyclip_studies import extractors_of
from zsad_core.anomalyclip_tables import ROLES, variants_of
from zsad_core.backbones import Backbone
from zsad_core.datasets import AnomalyDataset
from zsad_core.dense import Extractor, compute_parts
from zsad_core.embeddings import dataset_named, embed_images, encoder_of
from zsad_core.encoders import ClipEncoder
from zsad_core.settings import Settings
from zsad_core.shards import KINDS
from zsad_core.tiling import tiling_extractor
from zsad_core.winclip_few_shot import backbone_of, baseline_extractor, few_shot_design
from zsad_core.winclip_studies import Category, generic_extractor

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
    encoder = ac.prompt_encoder(settings) if kind == "anomalyclip" else encoder_of(settings)
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
    if role in COMPARED or ac.has_masks(c.test):
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
    learners = [r for r in ROLES if settings.datasets.get(r) and ac.auxiliary_role(r) == role]
    variants = [name for r in (role, *learners) for name in variants_of(settings, r)]
    extractors = extractors_of(c.encoder, variants)
    count = max(_compute(c, extractor, c.test, shard) for extractor in extractors)
    if role == ac.MEDICAL:  # of which prompts are learned on all images
        for extractor in extractors_of(c.encoder, ["tuned=medical", "vand"]):
            _compute(c, extractor, c.dataset.select(c.name), shard)
    return count


def _compute(c: Category, extractor: Extractor, images: AnomalyDataset, shard: int | None) -> int:
    return compute_parts(extractor, images, c.settings.cache_dir, whole=c.whole, shard=shard)
