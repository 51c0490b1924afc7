"""Memory and speed of a pre-training run that is not started yet; `plan` prints them."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import PretrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.servers import is_url
from fmriscale.model.activation_memory import activation_bytes
from fmriscale.model.flops import computed_flops, train_flops
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.data import described
from fmriscale.training.metrics import peak_flops
from fmriscale.training.objective import Objective
from fmriscale.training.precision import pick_precision
from fmriscale.training.run import encoder_for
from fmriscale.training.schedule import BatchPlan, plan_batch, plan_run
from fmriscale.training.state_memory import MASTER, MOMENTS, States, itemsize, states
from fmriscale.training.step_time import StepTime, step_time

GIB = 2**30
USABLE = 0.92
"""Share of a GPU's memory that CUDA, NCCL and fragmentation leave."""
FEATURES = 400
"""Features that are assumed where there is no corpus yet."""
NARROW_WIDTH = 180
"""A model of this width takes as long beside its matrix products as in them, on a CPU."""
UPDATE_S, EXCHANGE_S = 2e-9, 5e-9
"""Seconds a weight of clipping and AdamW on one core, and of sums and weights exchanged over gloo."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on GPUs that are not there yet, or on CPUs."""

    config: PretrainConfig
    encoder: EncoderConfig
    n_parameters: int
    batch: BatchPlan
    sequences: list[tuple[str, int, int]]
    """Each feature space, with its features and the volumes of a sequence."""
    description: str
    """Of the corpus."""
    resident: int
    """Bytes of the corpus that every device holds."""
    memory: float
    """Of the device of a rank, bytes."""
    device: Literal["gpu", "cpu"]

    @classmethod
    def of(
        cls, config: PretrainConfig, n_ranks: int, memory: float, device: Literal["gpu", "cpu"] = "gpu"
    ) -> "Plan":
        """Resolve model, batch and corpus."""
        settings = config.train
        batch = plan_run(settings, n_ranks)
        there = is_url(config.data.corpus) or expand(config.data.corpus).exists()
        encoder, sequences, description, resident = (_read_corpus if there else _assume_data)(config)
        return cls(
            config=config,
            encoder=encoder,
            n_parameters=Objective(settings).count_parameters(encoder),
            batch=batch,
            sequences=sequences,
            description=description,
            resident=resident,
            memory=memory,
            device=device,
        )

    @property
    def usable(self) -> float:
        """Bytes of a device that training may take."""
        return USABLE * self.memory

    @property
    def every_token(self) -> bool:
        """Whether the last block computes more than CLS."""
        return Objective(self.config.train).every_token

    def precision(self, stage: int) -> str:
        """Return the precision on a GPU that has bf16, or on this machine's CPU."""
        chosen = self.config.train.precision
        if chosen == "auto" and self.device == "cpu":
            return pick_precision(self.config.train, torch.device("cpu"), self.encoder.d_model)[0]
        if chosen == "fp16" and stage == 0:
            return "fp32"
        return "bf16" if chosen == "auto" else chosen

    def states(self, stage: int) -> States:
        """Return what a rank holds beside activations."""
        return states(
            self.n_parameters,
            stage,
            self.batch.world_size,
            self.precision(stage),
            offload=self.config.train.offload if stage > 0 else "none",
            overlap=self.device == "gpu",
        )

    def activations(self, stage: int, n_pairs: int, recompute: bool) -> int:
        """Return the most bytes of activations over all spaces and lengths."""
        # At stage 0 what is left between the blocks is float32, as the weights are.
        size, train = itemsize(self.precision(stage) if stage > 0 else "fp32"), self.config.train

        def of(n: int, features: int, length: int, *, alone: bool) -> int:
            return activation_bytes(
                self.encoder,
                n,
                n_features=features,
                length=length,
                itemsize=size,
                mask_itemsize=1 if self.device == "gpu" else size,
                attention_itemsize=size if self.device == "gpu" else 4,
                recompute=recompute,
                alone=alone,
                every_token=self.every_token,
            ).total

        return max(
            (of(n_pairs, features, length, alone=train.pair == "siamese") if train.reads_pairs else 0)
            + of(self._read_alone(n_pairs), features, length, alone=True)
            for _, features, length in self.sequences
        )

    def _read_alone(self, n_pairs: int) -> int:
        """Return the windows that a rank reads beside so many pairs, counted by twos."""
        train, n_windows = self.config.train, 0
        if train.contrastive_weight > 0:
            n_windows = -(-train.contrastive_people // self.batch.world_size) * train.contrastive_windows
        if train.connectivity_weight > 0 and (train.pair == "joint" or not train.ntp_weight):
            n_windows += n_pairs
        return -(-n_windows // 2)

    def total(self, stage: int, recompute: bool) -> int:
        """Return all bytes of a rank's device."""
        activations = self.activations(stage, self.batch.micro_batch_size, recompute)
        return self.states(stage).total + self.resident + activations

    def largest_micro_batch(self, stage: int, recompute: bool) -> int:
        """Return the largest micro-batch that fits and divides a rank's share of the batch; 0 = none."""
        if not self.config.train.reads_pairs:
            return 0
        beside = self.activations(stage, 0, recompute)  # groups of people
        free = self.usable - self.states(stage).total - self.resident - beside
        most = int(free // (self.activations(stage, 1, recompute) - beside))
        per_rank = self.config.train.global_batch // self.batch.world_size
        return plan_batch(per_rank, most, 1).micro_batch_size if most > 0 else 0

    @property
    def pairs_a_step(self) -> float:
        """Work of a step, as so many pairs: a window that is read alone counts half of one."""
        train, n_ranks = self.config.train, self.batch.world_size
        n_pairs = train.global_batch if train.reads_pairs else 0
        return n_pairs + n_ranks * self._read_alone(n_pairs // n_ranks)

    def step_time(self, flops: float, ranks_per_node: int) -> StepTime:
        """Return the time of a step on GPUs that do so many operations a second."""
        per_pair = max(train_flops(self.encoder, space, length) for space, _, length in self.sequences)
        n_ranks, stage = self.batch.world_size, self.config.train.zero_stage
        return step_time(
            self.encoder,
            self.pairs_a_step / n_ranks * per_pair * self._recomputed / flops,
            self.n_parameters,
            stage=stage,
            n_passes=self.batch.gradient_accumulation_steps,
            n_ranks=n_ranks,
            ranks_per_node=ranks_per_node,
            itemsize=itemsize(self.precision(stage) if stage > 0 else "fp32"),
        )

    def pairs_per_s_on_cpu(self, flops: float) -> float:
        """Return the rate of a rank on CPUs whose matrix product does so many operations a second.

        Norms, residuals, dropout and rotations grow with the width, AdamW and the exchange between ranks
        with the weights. On one core (AVX-512) all is within 7 % for presets paper and tiny, and for rotary
        models of width 256 to 768.
        """
        flops_per_pair = self._recomputed * max(
            computed_flops(self.encoder, space, length, every_token=self.every_token)
            for space, _, length in self.sequences
        )
        n_ranks, stage = self.batch.world_size, self.config.train.zero_stage
        n_pairs = self.pairs_a_step / n_ranks
        seconds = n_pairs * flops_per_pair / flops * (1 + NARROW_WIDTH / self.encoder.d_model)
        seconds += UPDATE_S * self.n_parameters / (n_ranks if stage > 0 else 1)
        seconds += EXCHANGE_S * self.n_parameters if n_ranks > 1 else 0.0
        return n_pairs / seconds

    @property
    def _recomputed(self) -> float:
        """Work of a step with one more forward pass, where activations are computed again."""
        return 4 / 3 if self.config.train.activation_checkpointing else 1

    def host_memory(self, ranks_per_node: int) -> int:
        """Return the most bytes of host memory that ranks of the first node hold at a time.

        Below stage 3 each builds the whole model, at stage 3 a block at a time. Later each keeps a copy of
        its part of a checkpoint, and rank 0 gathers the weights of encoder/.
        """
        whole = MASTER * self.n_parameters
        building = whole * ranks_per_node if self.config.train.zero_stage < 3 else 0
        copies = (MASTER + MOMENTS) * self.n_parameters * ranks_per_node // self.batch.world_size
        return max(building, copies + whole)


def cpu_flops(ranks_per_node: int, precision: str) -> float:
    """Measure the matrix product of a rank's share of this machine's cores, operations per second."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:  # as in init_distributed
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_per_node))
    try:
        return peak_flops(torch.device("cpu"), precision)
    finally:
        torch.set_num_threads(before)


Known = tuple[EncoderConfig, list[tuple[str, int, int]], str, int]
"""The encoder, and of the corpus sequences, description and resident bytes."""


def _read_corpus(config: PretrainConfig) -> Known:
    """Return what a corpus holds, and the encoder that reads it."""
    settings = config.train
    corpus = Corpus.open(config.data.corpus, config.data.cache, config.data.cache_gb)
    loader = NTPLoader(corpus, described(config.data), "train", settings.seed, settings.global_batch)
    pairs, resident = 2 * loader.n_windows, 0
    if config.data.access == "device":
        runs = corpus.runs[corpus.runs.key.isin(loader.run_keys)]
        resident = int(2 * (runs.n_volumes * runs.n_features).sum())
    epochs = settings.steps * settings.global_batch / pairs
    facts = f"{pairs:,} pairs an epoch, {epochs:,.1f} epochs in the run"
    description = f"{corpus}: {facts if settings.reads_pairs else 'groups of people, no pairs'}"
    sequences = [(group.space.name, group.space.n_features, group.length) for group in loader.groups]
    return encoder_for(config, loader), sequences, description, resident


def _assume_data(config: PretrainConfig) -> Known:
    """Return what is assumed of a corpus that is not there yet, and the encoder that would read it."""
    corpus, length = config.data.corpus, config.data.pairs.length
    if not isinstance(length, int):
        raise UserError(f"{corpus} is not there: data.pairs.length '{length}' cannot be made volumes")
    description = f"{corpus} is not there yet; {FEATURES} features assumed, epochs unknown"
    encoder = resolve_encoder(config.model, {"any": FEATURES}, length)
    return encoder, [("any", FEATURES, length)], description, 0
