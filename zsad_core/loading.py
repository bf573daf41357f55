"""Images on their way to an encoder: decoded, cut and resized in other processes, ahead of need, in order.

While the encoder works on one batch, worker processes prepare the next ones, at most two each, so memory does
not grow with the number of images. What comes out does not depend on how many workers there are, also none.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zsad_core.images import read_image

Item, Made = TypeVar("Item"), TypeVar("Made")

FEW = 200
"""Images that are prepared before workers would have started, which takes seconds."""
_SHARED = 2**29  # bytes of shared memory through which workers hand over batches; containers often have 64 MB


class Batch(NamedTuple):
    """pixels: (p, 3, H, W), what was made of b images, in order. sizes: (b,) their widths and heights."""

    pixels: Tensor
    sizes: list[tuple[int, int]]


def load_batches(
    batches: Sequence[Sequence[Path]],
    prepare: Callable[[Image.Image], Tensor],
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
) -> Iterator[Batch]:
    """Batches of images in order, each image made ready by `prepare`: from RGB to pixels (k, 3, H, W).

    prepare, workers: as in `made_ahead`; None: as `worker_count` has it. device: where pixels are brought,
    for CUDA from pinned memory while the device works.
    """
    workers = worker_count(sum(map(len, batches))) if workers is None else workers
    cuda = torch.device(device).type == "cuda"
    make = partial(_batch, prepare=prepare)
    with closing(made_ahead(batches, make, workers=workers, pin_memory=cuda)) as made:
        for batch in made:
            yield batch._replace(pixels=batch.pixels.to(device, non_blocking=True)) if cuda else batch


def made_ahead(
    items: Sequence[Item], make: Callable[[Item], Made], *, workers: int, pin_memory: bool = False
) -> Iterator[Made]:
    """make(item) of each item, in order, in worker processes while the caller works on earlier ones.

    items, make: pickled for the workers, so `make` is a function of a module, or a `functools.partial` of
    one. workers: how many processes; 0: none, all is done here. An error in `make` is raised here, when its
    turn comes. The workers end then, and when the iterator is closed (`contextlib.closing`: on Ctrl-C as
    well).
    """
    loader = DataLoader(
        _Items(items, make),
        batch_size=None,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # it draws a seed, by default from the global random state
        num_workers=workers,
        multiprocessing_context=_context() if workers else None,
    )
    running = iter(loader)
    try:
        for found in running:
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        if workers:  # at once: an error's traceback holds the iterator, which would keep them
            running._shutdown_workers()


def worker_count(images: int) -> int:
    """Half of the cores that this process may use, at most 16; none for few images."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = Path("/dev/shm")
    if images < FEW or (shared.is_dir() and shutil.disk_usage(shared).free < _SHARED):
        return 0
    return min(16, max(1, allowed // 2))


@dataclass(frozen=True)
class _Items(Dataset):
    items: Sequence
    make: Callable

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.make(self.items[number])
        except Exception as error:  # returned: raised here, it would arrive inside a report on the worker
            return error


def _batch(paths: Sequence[Path], prepare: Callable[[Image.Image], Tensor]) -> Batch:
    pixels, sizes = [], []
    for path in paths:
        try:
            image = read_image(path)
            pixels.append(prepare(image))
        except Exception as error:
            if str(path) not in str(error):
                error.add_note(f"with the image {path}")
            raise
        sizes.append(image.size)
    return Batch(torch.cat(pixels), sizes)


def _unchanged(made: Any) -> Any:
    return made


def _context() -> multiprocessing.context.BaseContext:
    """Processes that are not forked from this one: it may hold threads and a GPU, which a fork breaks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by every worker
    return context
