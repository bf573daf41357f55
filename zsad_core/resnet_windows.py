"""Windows for CLIP's ResNets: over the feature map before the attention pooling (WinCLIP, supplement B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from open_clip.utils import to_2tuple
from torch import Tensor, nn

from zsad_core.windows import window_indices


@torch.no_grad()
def embed_resnet(
    visual: nn.Module, pixels: Tensor, sizes: Sequence[int] = (2, 3)
) -> tuple[Tensor, dict[int, Tensor]]:
    """Embeddings of the whole image, (n, d), and of all windows, {size: (n, n_windows, d)}; WinCLIP, Table 9.

    The feature map is computed once. For a window the cells outside it are dropped, "in the same way" as the
    patches of a Vision Transformer, and `pool_cells` runs on the rest. The convolutions have seen the whole
    image: what lies around a window does reach its embedding. A cell stands for 32 x 32 pixels.

    visual: open_clip's ModifiedResNet in eval mode. pixels: (n, 3, H, W), one batch: the caller bounds n.
    sizes: edges of the windows in cells, stride 1; the order of windows is that of `window_indices`.
    Returns float32 on the CPU, not normalised. Raises ValueError for a window larger than the feature map.
    """
    rows, columns = (edge // 32 for edge in to_2tuple(visual.image_size))
    members = [torch.arange(rows * columns)[None], *(window_indices((rows, columns), size) for size in sizes)]
    x = visual.stem(pixels)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)  # (n, channels, rows, columns) after the last one
    pooled = pool_cells(visual.attnpool, x.flatten(2).transpose(1, 2), members)
    image, *windows = (embeddings.float().cpu() for embeddings in pooled)
    return image[:, 0], dict(zip(sizes, windows, strict=True))


def pool_cells(attnpool: AttentionPool2d, cells: Tensor, members: Sequence[Tensor]) -> list[Tensor]:
    """CLIP's attention pooling on chosen cells of a feature map: (n, windows, d) for each of `members`.

    cells: (n, cells, channels), row-major. members: (windows, m) numbers of the cells of each window.

    The pooling's query is the mean of the cells, in place of a class token: here the mean of the window's
    cells. The mean and the cells keep the position embeddings that they have in the whole image (number 0
    for the mean). The key and the value of a cell are the same in all windows, so they are computed once.
    """
    positions = attnpool.positional_embedding  # (1 + cells, channels)
    placed = cells + positions[1:]
    key, value = attnpool.k_proj(placed), attnpool.v_proj(placed)  # (n, cells, channels) each
    pooled = []
    for window in members:
        window = window.to(cells.device)  # (w, m)
        mean = cells[:, window].mean(2) + positions[0]  # (n, w, channels)
        keys = torch.cat([attnpool.k_proj(mean)[:, :, None], key[:, window]], dim=2)
        values = torch.cat([attnpool.v_proj(mean)[:, :, None], value[:, window]], dim=2)  # (n, w, 1 + m, ...)
        query, keys, values = (
            tokens.unflatten(-1, (attnpool.num_heads, -1)).transpose(2, 3)  # (n, w, heads, 1 or 1 + m, ...)
            for tokens in (attnpool.q_proj(mean)[:, :, None], keys, values)
        )
        gathered = F.scaled_dot_product_attention(query, keys, values)  # (n, w, heads, 1, channels / heads)
        pooled.append(attnpool.c_proj(gathered.flatten(2)))  # (n, w, d)
    return pooled
