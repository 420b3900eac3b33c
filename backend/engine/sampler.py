"""Drawing tokens. Randomness comes in as one uniform number a row, drawn by the row's session.

So a session's tokens depend on its own seed alone, whoever else is in the batch.
"""

import torch
from torch import Tensor


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, max_top_k: int, uniform: Tensor
) -> Tensor:
    """Top-k sampling by inverting the cumulative distribution.

    Args:
        logits: `[rows, tokens]`.
        temperature: `[rows]`, above 0; for a greedy row it does not matter.
        top_k: `[rows]`, 1 for a greedy row.
        max_top_k: the largest `top_k`, known on the host.
        uniform: `[rows]` in [0, 1).

    Returns:
        `[rows]` int64.
    """
    if max_top_k == 1:
        return logits.argmax(dim=-1)
    values, ids = logits.float().topk(min(max_top_k, logits.shape[-1]))
    ranks = torch.arange(values.shape[-1], device=values.device)
    values = (values / temperature[:, None]).masked_fill(ranks >= top_k[:, None], -torch.inf)
    cumulative = values.softmax(dim=-1).cumsum(dim=-1)
    # Scaled by the last entry, which rounding may leave a little off 1.
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1)
    chosen = chosen.minimum(top_k.clamp_max(values.shape[-1]) - 1)
    return ids.gather(1, chosen[:, None])[:, 0]
