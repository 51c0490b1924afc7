"""The vectors of rows with their gradient: of a window, or the mean over the windows of runs.

N rows, B rows of a batch, W windows, L volumes, V features, D width of a vector.
"""

import numpy as np
import torch
from torch import Tensor

from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder
from fmriscale.model.precision import casting, precision_of_hardware
from fmriscale.study.probe.cut import starts_in, volumes
from fmriscale.study.probe.data import Probe


class RowReader:
    """Reads rows through an encoder; they are the same vectors that the frozen encoder has."""

    def __init__(self, probe: Probe, corpus: Corpus, device: torch.device) -> None:
        self.probe, self.device = probe, device
        rows, table, settings = probe.rows, probe.table, probe.config.windows
        n_pieces_N = np.bincount(rows.row_M, minlength=len(rows))
        columns = []
        pieces = (rows.row_M.tolist(), rows.run_M.tolist(), rows.start_M.tolist())
        for row, run, start in zip(*pieces, strict=True):
            about = table.loc[run]
            starts = [start] if start >= 0 else starts_in(about["segments"], about["t_r"], settings)
            length, weight = volumes(settings.length, about["t_r"]), 1 / (len(starts) * n_pieces_N[row])
            columns += [(row, run, first, length, weight, about["t_r"]) for first in starts]
        row_W, run_W, start_W, length_W, weight_W, t_r_W = (
            np.array(column) for column in zip(*columns, strict=True)
        )
        self.run_W, self.start_W, self.length_W = run_W, start_W, length_W
        self.weight_W, self.t_r_W = weight_W.astype(np.float32), t_r_W.astype(np.float32)
        self.first_N = np.searchsorted(row_W, np.arange(len(rows) + 1)).tolist()
        self.bold = {run: corpus.bold(run) for run in np.unique(run_W).tolist()}

    def vectors(self, encoder: Encoder, space: str, rows_B: np.ndarray) -> Tensor:
        """Return the vectors of some rows, [B, D]."""
        spans = [np.arange(self.first_N[row], self.first_N[row + 1]) for row in rows_B.tolist()]
        window_W, place_W = np.concatenate(spans), np.repeat(np.arange(len(spans)), list(map(len, spans)))
        parts = []
        for length in np.unique(self.length_W[window_W]):  # of runs of one t_r
            own = self.length_W[window_W] == length
            read = self.read(encoder, space, window_W[own])
            weighted = read * torch.from_numpy(self.weight_W[window_W[own]]).to(self.device)[:, None]
            place = torch.from_numpy(place_W[own]).to(self.device)
            parts.append(read.new_zeros(len(rows_B), read.shape[1]).index_add(0, place, weighted))
        return torch.stack(parts).sum(dim=0)

    def read(self, encoder: Encoder, space: str, window_W: np.ndarray) -> Tensor:
        """Return the vectors of windows of one length, [W, D]."""
        places = zip(self.run_W[window_W].tolist(), self.start_W[window_W].tolist(), strict=True)
        length = int(self.length_W[window_W[0]])
        bold_WLV = np.stack([self.bold[run][start : start + length] for run, start in places])
        t_r_W = torch.from_numpy(self.t_r_W[window_W]).to(self.device)
        bold_WLV, pool = torch.from_numpy(bold_WLV).to(self.device), self.probe.config.pool
        precision, _ = precision_of_hardware(self.device, encoder.config.d_model)
        with casting(self.device, precision):
            vectors_WD = encoder.embed(bold_WLV, t_r_W, space, pool)
        return vectors_WD.float()
