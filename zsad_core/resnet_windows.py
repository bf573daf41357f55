"""Windows for CLIP's ResNets: over the feature map before the attention pooling (WinCLIP, supplement B)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.utils import to_2tuple
from torch import Tensor, nn

from zsad_core.windows import window_indices


@torch.no_grad()
def embed_resnet(
    visual: nn.Module, pixels: Tensor, sizes: Sequence[int] = (2, 3)
) -> tuple[Tensor, dict[int, Tensor]]:
    """Embeddings of the whole image, (n, d), and of all windows, {size: (n, n_windows, d)}; WinCLIP, Table 9.

    For a window the cells outside it are dropped, "in the same way" as the patches of a Vision Transformer.
    The pooling's query is the mean of the window's cells. The convolutions have seen the whole image.

    visual: open_clip's ModifiedResNet in eval mode. pixels: (n, 3, H, W), one batch.
    sizes: edges of the windows in cells of 32 x 32 pixels; ValueError for one larger than the feature map.
    Returns float32 on the CPU, not normalised.
    """
    rows, columns = (edge // 32 for edge in to_2tuple(visual.image_size))
    members = [torch.arange(rows * columns)[None], *(window_indices((rows, columns), size) for size in sizes)]
    x, pool = visual.stem(pixels), visual.attnpool
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)  # (n, channels, rows, columns) after the last one
    cells, positions = x.flatten(2).transpose(1, 2), pool.positional_embedding  # the mean has position 0
    placed = cells + positions[1:]  # (n, cells, channels)
    key, value = pool.k_proj(placed), pool.v_proj(placed)  # of a cell, the same in all windows
    pooled = []
    for window in members:
        window = window.to(cells.device)  # (w, m)
        mean = cells[:, window].mean(2) + positions[0]  # (n, w, channels), in place of a class token
        keys = torch.cat([pool.k_proj(mean)[:, :, None], key[:, window]], dim=2)
        values = torch.cat([pool.v_proj(mean)[:, :, None], value[:, window]], dim=2)  # (n, w, 1 + m, ...)
        query, keys, values = (
            tokens.unflatten(-1, (pool.num_heads, -1)).transpose(2, 3)  # (n, w, heads, 1 or 1 + m, ...)
            for tokens in (pool.q_proj(mean)[:, :, None], keys, values)
        )
        gathered = F.scaled_dot_product_attention(query, keys, values)  # (n, w, heads, 1, channels / heads)
        pooled.append(pool.c_proj(gathered.flatten(2)).float().cpu())  # (n, w, d)
    return pooled[0][:, 0], dict(zip(sizes, pooled[1:], strict=True))
