"""One vector of all tokens of volumes: their mean, or the means of bins of time side by side.

Shapes: B pairs, T = 2 L + 2 tokens of which S = 2 L are volumes, D width, K bins.
"""

import torch
from torch import Tensor

from fmriscale.model.presets import N_BINS, Pool


def n_parts(pool: Pool) -> int:
    """Return how many widths a pooled vector has."""
    return N_BINS if pool == "bins" else 1


def pool_tokens(x_BTD: Tensor, length_left: int, pool: Pool) -> Tensor:
    """Return one vector of all tokens, [B, D], or [B, K D] of bins."""
    if pool == "cls":
        return x_BTD[:, 0]
    x_BSD = torch.cat((x_BTD[:, 1 : length_left + 1], x_BTD[:, length_left + 2 :]), dim=1)
    if pool == "mean":
        return x_BSD.mean(dim=1)
    weight_KS = bin_weights(x_BSD.shape[1], device=x_BSD.device).to(x_BSD.dtype)
    return torch.einsum("ks,bsd->bkd", weight_KS, x_BSD).flatten(1)


def bin_weights(n_volumes: int, n_bins: int = N_BINS, device: torch.device | None = None) -> Tensor:
    """Return the share of each volume in each bin of time, float32 [K, S]; the shares of a bin sum to 1.

    Bin k reaches from volume floor(k S / K) to before ceil((k + 1) S / K), as in torch's adaptive average
    pooling: bins share a volume where K does not divide S, and of fewer volumes than bins each bin is one.
    """
    bin_K = torch.arange(n_bins, device=device)
    first_K = bin_K * n_volumes // n_bins
    stop_K = -(-(bin_K + 1) * n_volumes // n_bins)
    place_S = torch.arange(n_volumes, device=device)
    inside_KS = (place_S >= first_K[:, None]) & (place_S < stop_K[:, None])
    return inside_KS / inside_KS.sum(dim=1, keepdim=True)
