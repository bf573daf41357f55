"""Where networks compute, in which precision, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["fp32", "bf16"]


def choose_device(device: str, precision: str) -> torch.device:
    """The device that "auto" or a name means; ValueError if it is not there, or slow in this precision."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r}; expected 'fp32' or 'bf16'")
    has_cuda = torch.cuda.is_available()
    chosen = torch.device(("cuda" if has_cuda else "cpu") if device == "auto" else device)
    if chosen.type == "cuda" and not has_cuda:
        raise ValueError(f"device={device!r}, but torch sees no CUDA GPU; use device='auto' or 'cpu'")
    fast = {"cuda": torch.cuda.is_bf16_supported, "cpu": torch.cpu._is_amx_tile_supported}
    if precision == "bf16" and not fast.get(chosen.type, lambda: True)():
        raise ValueError(f"precision='bf16' would be slow on this {chosen.type.upper()}; use 'fp32'")
    return chosen


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Float32 matrix products by oneDNN on CPUs with AVX-512: MKL takes twice as long on those of AMD.
    "medium" would allow bfloat16, but oneDNN uses it only with AMX, where nothing changes. The fused
    attention becomes slower by it, so its plain form is taken."""
    before, amx = torch.get_float32_matmul_precision(), torch.cpu._is_amx_tile_supported()
    if device.type != "cpu" or amx or torch.backends.cpu.get_cpu_capability() != "AVX512":
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from more threads, and how these share a sum shows in the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
