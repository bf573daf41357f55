"""Readers that several datasets share: pairs of image and mask, the threshold of masks, common trees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_scripts.folders import by_name, child, folded, folders_in, folders_with, images_in
from data_scripts.prepare import PreparedFolder
from zsad_core.images import read_mask

NORMAL = ("good", "ok")
"""Folder names of normal images; every other folder beside them is a kind of defect."""

_SHOWN = 5  # names that an error lists


def by_stem(paths: Iterable[Path], suffix: str | Sequence[str] = "") -> dict[str, Path]:
    """Files by name without extension and `suffix`. Case does not matter, nor whether an accent is a separate
    character.

    suffix: the end that a mask's name has and its image's has not; of several, the first that fits is
    removed. Raises ValueError when two files share a name.
    """
    suffixes = (suffix,) if isinstance(suffix, str) else suffix
    found: dict[str, Path] = {}
    for path in paths:
        stem = folded(path.stem)
        end = next((s.casefold() for s in suffixes if s and stem.endswith(s.casefold())), "")
        stem = stem.removesuffix(end)
        if stem in found:
            raise ValueError(
                f"{path} and {found[stem].name} differ only in case and ends: expected one file of each name"
            )
        found[stem] = path
    return found


def add_mvtec_layout(
    root: Path,
    out: PreparedFolder,
    *,
    category: str | None = None,
    mask_suffixes: Sequence[str] = ("_mask", ""),
    above: int = 0,
) -> None:
    """Adds <category>/{train/good, test/<defect>, ground_truth/<defect>}; good or ok are normal.

    category: None takes every folder of `root` that holds train or test. A name means that `root` itself is
        the folder of this category.
    A category without the folder ground_truth has no masks. With it, each anomalous image must have a mask
    and no other mask may exist: ValueError names the others.
    """
    if category is None:
        for folder in folders_in(root):
            if child(folder, "train") or child(folder, "test"):
                add_mvtec_layout(folder, out, category=folder.name, mask_suffixes=mask_suffixes, above=above)
        return
    train, test, truth = (child(root, name) for name in ("train", "test", "ground_truth"))
    for folder in (train, test):
        normal = child(folder, *NORMAL) if folder else None
        if normal:
            split = "train" if folder is train else "test"
            add_labelled(normal, out, category=category, defect="good", split=split)
    kinds, masks = (by_name(folders_in(folder) if folder else ()) for folder in (test, truth))
    for name in sorted((kinds.keys() | masks.keys()) - set(NORMAL)):
        images = kinds.get(name) or root / "test" / masks[name].name
        if truth is None:
            add_labelled(images, out, category=category, defect=images.name)
        else:
            names = {"category": category, "defect": images.name, "mask_suffix": mask_suffixes}
            add_pairs(images, masks.get(name) or truth / images.name, out, above=above, **names)


def add_pairs(
    images: Path,
    masks: Path,
    out: PreparedFolder,
    *,
    category: str,
    defect: str,
    mask_suffix: str | Sequence[str] = "",
    above: int = 0,
    split: str = "test",
) -> None:
    """Adds the images of one folder with their masks from another, paired by name, never by position.

    mask_suffix: as in `by_stem`. Raises ValueError listing images without mask and masks without image.
    """
    for folder, partner in ((images, masks), (masks, images)):
        if not folder.is_dir():
            raise ValueError(
                f"{folder} does not exist, but {partner} does. Is the download extracted completely?"
            )
    pictures, labels = by_stem(images_in(images)), by_stem(images_in(masks), mask_suffix)
    require_pairs(images, pictures, masks, labels)
    for stem, path in pictures.items():
        mask = read_mask(labels[stem], above)
        out.add(path, category=category, split=split, defect=defect, name=path.name, mask=mask)


def require_pairs(images: Path, pictures: dict[str, Path], masks: Path, labels: dict[str, Path]) -> None:
    """ValueError unless the two (from `by_stem`) have the same keys; it lists files without a partner."""
    faults = [
        f"{len(alone)} without {partner}: {_listed(alone)}"
        for alone, partner in (
            ([path for stem, path in pictures.items() if stem not in labels], f"mask in {masks}"),
            ([path for stem, path in labels.items() if stem not in pictures], f"image in {images}"),
        )
        if alone
    ]
    if faults:
        raise ValueError(
            f"images and masks do not pair: {'; '.join(faults)}. Is the download extracted completely?"
        )


def add_labelled(
    folder: Path, out: PreparedFolder, *, category: str, defect: str, split: str = "test"
) -> None:
    """Adds every image of a folder, without masks. defect: "good" for normal images."""
    for path in images_in(folder):
        out.add(path, category=category, split=split, defect=defect, name=path.name)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")


def add_yes_no(root: Path, out: PreparedFolder, *, category: str, defect: str) -> list[Path]:
    """Adds the images of `no` (normal) and `yes` from the highest folder that has both, without masks.

    Returns every such folder, the one taken first. Raises FileNotFoundError when there is none.
    """
    found = folders_with(root, "yes", "no")
    if not found:
        raise FileNotFoundError(f"no folder in {root} or below has yes/ and no/. Is it extracted completely?")
    for name, kind in (("no", "good"), ("yes", defect)):
        add_labelled(child(found[0], name), out, category=category, defect=kind)
    return found


def polyp_set(root: Path, name: str) -> Path:
    """The folder of one polyp set, with `images` and `masks`, in a download that may hold several.

    name: a part of its path, in lower-case letters and digits. A download with a single set needs no name.
    Raises FileNotFoundError when there is no such folder, or it is not clear which.
    """
    folders = folders_with(root, "images", "masks")
    paths = {folder: str(folder.relative_to(root)) for folder in folders}
    named = [folder for folder in folders if name in re.sub("[^a-z0-9]", "", paths[folder].casefold())]
    if not named and len(folders) != 1:
        raise FileNotFoundError(
            f"{len(folders)} folders in {root} and below have images/ and masks/, none called {name}: "
            f"{', '.join(paths.values()) or 'nothing to choose from'}. Give the folder of the set"
        )
    return (named or folders)[0]


def refuse_reduced(images: Path, *, reduced: int, total: int) -> None:
    """ValueError if there are exactly as many images as in PraNet's part of a polyp set."""
    if len(images_in(images)) == reduced:
        raise ValueError(
            f"{images} holds only {reduced} of the {total} images: it is the part in PraNet's bundle "
            "(TestDataset), not the papers' test set. Fetch the whole set, see --help"
        )
