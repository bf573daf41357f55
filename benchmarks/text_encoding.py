"""Times the text tower on cut, sorted and deduplicated prompts beside open_clip's own `encode_text`.

    python benchmarks/text_encoding.py [--model ViT-B-16-plus-240] [--threads 2] [--repeats 3]

Random weights: time does not depend on them. Both ways run in turn in one process, the best of `repeats`
counts, and the largest difference of their embeddings is printed beside the speed-up. Tokenizing counts for
both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.prompts import compositional_ensemble, random_word_prompts


def open_clip_embeddings(encoder: ClipEncoder, prompts: list[str], batch: int) -> Tensor:
    """(n, d) unit rows, every prompt over the whole context of 77 tokens."""
    with torch.inference_mode():
        rows = [
            encoder.model.encode_text(encoder.tokenizer(prompts[i : i + batch]), normalize=True)
            for i in range(0, len(prompts), batch)
        ]
    return torch.cat(rows)


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-plus-240")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="prompts a batch of open_clip's way")
    parser.add_argument("--pairs", type=int, default=100, help="random-word pairs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = load_encoder(arguments.model, "random")
    workloads = {
        # WinCLIP's 242 sentences for one object, as an evaluation encodes them
        "compositional ensemble": sum(compositional_ensemble("metal nut"), []),
        "random-word prompts": sum(map(list, random_word_prompts(arguments.pairs)), []),
    }
    print(f"{arguments.model}, random weights, {arguments.threads} threads, best of {arguments.repeats}")
    print(f"{'prompts':<24}{'number':>8}{'open_clip s':>13}{'cut s':>9}{'speed-up':>10}{'max diff':>11}")
    for name, prompts in workloads.items():
        ours, theirs = float("inf"), float("inf")
        for _ in range(arguments.repeats):
            seconds, expected = timed(lambda p=prompts: open_clip_embeddings(encoder, p, arguments.batch))
            theirs = min(theirs, seconds)
            seconds, embeddings = timed(lambda p=prompts: encoder.embed_text(p))
            ours = min(ours, seconds)
        difference = (embeddings - expected).abs().max().item()
        print(
            f"{name:<24}{len(prompts):>8}{theirs:>13.2f}{ours:>9.2f}{theirs / ours:>10.2f}{difference:>11.1e}"
        )


if __name__ == "__main__":
    main()
