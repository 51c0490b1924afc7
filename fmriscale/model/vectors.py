"""Windows to vectors, in batches that bound memory; N windows, L volumes, V features, D width."""

import numpy as np
import torch

from fmriscale.model.encoder import Encoder
from fmriscale.model.precision import casting, precision_of_hardware
from fmriscale.model.presets import Pool

BATCH = 256


@torch.inference_mode()
def window_vectors(
    encoder: Encoder, windows_NLV: np.ndarray, t_r: float, space: str, pool: Pool
) -> np.ndarray:
    """Return the vectors of windows, float32 [N, D], on the encoder's own device, in its type."""
    device, vectors = next(encoder.parameters()).device, []
    precision, _ = precision_of_hardware(device, encoder.config.d_model)
    for windows in torch.from_numpy(windows_NLV).split(BATCH):
        t_r_B = torch.full((len(windows),), float(t_r), device=device)
        with casting(device, precision):
            vectors.append(encoder.embed(windows.to(device), t_r_B, space, pool))
    return torch.cat(vectors).float().cpu().numpy()
