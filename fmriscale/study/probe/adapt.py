"""An encoder that learns the target of a probe, on the training side of a fold alone.

It starts where the frozen encoder ends: with the linear model of its vectors as its head (Kumar et al. 2022,
arXiv:2202.10054). Inner folds choose how many epochs it learns: none leaves the frozen encoder.

N rows, B rows of a batch, W windows, V features, D width of a vector, L classes of the training side (1 = a
number).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from fmriscale.common.workers import worker_number
from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder
from fmriscale.model.precision import casting, precision_of_hardware
from fmriscale.study.learning import (
    device_of,
    let_learn,
    optimiser_of,
    parameters_that_learn,
    take_step,
    train_epoch,
)
from fmriscale.study.probe.cut import starts_in, volumes
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.decoder import (
    Choice,
    Decoded,
    among_all,
    choose,
    fit,
    inner_splits,
    linear_model,
    log_probability,
    logits,
    minus_squared_error,
    scaled,
)

WEIGHT_DECAY = 0.01
"""Of AdamW, as a study has it by default."""
TEST_BATCH = 64
"""Rows that are decoded at a time."""
PATIENCE = 5
"""Epochs without a gain in inner folds after which no more are tried."""


class Rows(NamedTuple):
    """Training rows with their targets."""

    row_N: np.ndarray
    target_N: np.ndarray

    def take(self, places: np.ndarray) -> "Rows":
        """Return some of them."""
        return Rows(self.row_N[places], self.target_N[places])


@dataclass(frozen=True)
class Adapted(Decoded):
    """What an adapted encoder and its head say of the test rows."""

    epochs: int
    """Epochs that it has learned."""
    validation: list[float]
    """By epoch, from 0: the mean over inner folds of the log-probability of the true class, classes alike;
    or minus the squared error. Empty where there were none to choose by."""


class Start(nn.Module):
    """A linear model of scaled vectors, which is what the head starts from."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, x_ND: np.ndarray, target_N: np.ndarray, choice: Choice, n_classes: int) -> None:
        super().__init__()
        scaler, model = StandardScaler().fit(x_ND.astype(float)), linear_model(n_classes)
        mean_D, scale_D = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
        if choice.scale == "together":
            scale_D = np.full_like(scale_D, np.sqrt(np.mean(np.asarray(scaler.var_))))
        # An affine function is known by its values at zero and at the unit vectors.
        probes = mean_D + scale_D * np.concatenate((np.zeros((1, len(mean_D))), np.eye(len(mean_D))))
        x_train, x_units, width = scaled(x_ND, probes, choice.scale)
        fit(model, x_train, target_N, choice.penalty, width)
        value = logits(model, x_units) if n_classes else model.predict(x_units)[:, None]
        self.register_buffer("mean_D", torch.tensor(mean_D, dtype=torch.float32))
        self.register_buffer("scale_D", torch.tensor(scale_D, dtype=torch.float32))
        self.linear = nn.Linear(len(mean_D), value.shape[1])
        with torch.no_grad():
            self.linear.bias.copy_(torch.tensor(value[0]))
            self.linear.weight.copy_(torch.tensor((value[1:] - value[0]).T))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return logits [B, L], or a number [B, 1]."""
        return self.linear((x_BD - self.mean_D) / self.scale_D)


class Adaptation:
    """What the trainings of a fit share; order and dropout of an epoch come from seed, fold and epoch."""

    def __init__(
        self, probe: Probe, corpus: Corpus, arm: str, fold: int, seed: int, x_ND: np.ndarray
    ) -> None:
        self.probe, self.arm, self.fold, self.seed, self.x_ND = probe, arm, fold, seed, x_ND
        self.settings, self.n_classes = probe.config.train, len(probe.rows.classes)
        self.device = device_of(worker_number(), torch.cuda.device_count())
        self.reader = RowReader(probe, corpus, self.device)
        torch.set_num_threads(1)

    def decode(self, train: Rows, test_N: np.ndarray, groups: list[np.ndarray] | None) -> Adapted:
        """Adapt the encoder to the training rows, and decode the test rows.

        Inner folds, which keep groups together, choose scale and penalty of the start, then the number of
        epochs, with which all training rows are learned; without inner folds it is the settings'.
        """
        x_ND = self.x_ND
        choice = choose(lambda fitted, applied: (x_ND[fitted], x_ND[applied]), *train, groups, self.n_classes)
        splits = inner_splits(train.target_N, groups, classify=self.n_classes > 0)
        validation = self.validate([(train.take(a), train.take(b)) for a, b in splits], choice)
        epochs = int(np.argmax(validation)) if validation else self.settings.epochs
        training = Training(self, train, choice)
        for epoch in range(1, epochs + 1):
            training.train_epoch(epoch)
        value = training.predict(test_N)
        if self.n_classes:
            value = among_all(value, training.labels, self.n_classes)
        return Adapted(value, choice, x_ND.shape[1], epochs, validation)

    def validate(self, splits: list[tuple[Rows, Rows]], choice: Choice) -> list[float]:
        """Return by epoch, from 0, how well unseen rows are decoded: the mean over splits, [] without any."""
        trainings = [(Training(self, rows, choice), unseen) for rows, unseen in splits]
        found: list[float] = []
        for epoch in range(self.settings.epochs + 1 if splits else 0):
            for training, _ in trainings if epoch else ():
                training.train_epoch(epoch)
            found.append(float(np.mean([training.score(unseen) for training, unseen in trainings])))
            if epoch - np.argmax(found) == PATIENCE:
                break
        return found


class Training:
    """An encoder and its head while they learn."""

    def __init__(self, work: Adaptation, rows: Rows, choice: Choice) -> None:
        self.work, self.rows, target_N = work, rows, rows.target_N
        encoder, self.space = work.probe.encoder(work.arm, work.fold, work.seed)
        self.encoder: Encoder = encoder.to(work.device)
        self.head = Start(work.x_ND[rows.row_N], target_N, choice, work.n_classes).to(work.device)
        self.labels, place_N, n_L = np.unique(target_N, return_inverse=True, return_counts=True)
        self.scale = max(float(np.std(target_N)), 1e-12)
        """Of a number, so that its loss has no unit."""
        wanted = torch.from_numpy(place_N) if work.n_classes else torch.from_numpy(target_N).float()
        self.wanted_N = wanted.to(work.device)
        self.weight_L = torch.tensor(len(target_N) / (len(n_L) * n_L), dtype=torch.float32).to(work.device)
        settings = work.settings
        self.learning = parameters_that_learn(encoder, settings.adapt, settings.lora_rank, work.seed)
        self.optimiser = optimiser_of(self.learning, settings.lr, self.head, settings.lr, WEIGHT_DECAY)

    def train_epoch(self, epoch: int) -> float:
        """Train on every row once; return the mean loss."""
        work = self.work
        let_learn(self.encoder, self.learning)
        name, seeds = f"{work.arm}_fold{work.fold}_seed{work.seed}", [work.seed, work.fold, epoch]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        return train_epoch(len(self.rows.row_N), work.settings.batch, seeds, self.train_step, name)

    def train_step(self, places: np.ndarray) -> float:
        """Train on some of the rows; return their mean loss."""
        value_BL = self.head(self.work.reader.vectors(self.encoder, self.space, self.rows.row_N[places]))
        wanted_B = self.wanted_N[torch.from_numpy(places)]
        if self.work.n_classes:
            loss = F.cross_entropy(value_BL, wanted_B, self.weight_L, reduction="sum") / len(places)
        else:
            loss = F.mse_loss(value_BL[:, 0] / self.scale, wanted_B / self.scale)
        return take_step(self.optimiser, [*self.learning, *self.head.parameters()], loss)

    @torch.no_grad()
    def predict(self, rows_N: np.ndarray) -> np.ndarray:
        """Return log-probabilities [N, L] of the classes of the training side, or predictions [N]."""
        self.encoder.eval()
        parts = np.split(rows_N, range(TEST_BATCH, len(rows_N), TEST_BATCH))
        value_NL = torch.cat(
            [self.head(self.work.reader.vectors(self.encoder, self.space, part)) for part in parts]
        ).double()
        return (value_NL.log_softmax(dim=1) if self.work.n_classes else value_NL[:, 0]).cpu().numpy()

    def score(self, unseen: Rows) -> float:
        """Return how well rows are decoded that it does not learn from."""
        value = self.predict(unseen.row_N)
        if self.work.n_classes:
            return log_probability(value, self.labels, unseen.target_N)
        return minus_squared_error(value, unseen.target_N)


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
