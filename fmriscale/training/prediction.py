"""Memory and speed of a pre-training run that is not started yet; `fmriscale plan` says what is assumed."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import PretrainConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.servers import is_url
from fmriscale.model.activation_memory import activation_bytes
from fmriscale.model.flops import train_flops
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.cpu_rate import cpu_pairs_per_s
from fmriscale.training.objective import Objective
from fmriscale.training.schedule import BatchPlan, plan_batch
from fmriscale.training.shape import shape_for
from fmriscale.training.state_memory import MASTER, MOMENTS, States, itemsize, states

GIB = 2**30
USABLE = 0.92
"""Share of a GPU's memory that is left by CUDA, NCCL and fragmentation."""
KERNELS_OF_BLOCK, KERNELS_BESIDE = 60, 50
"""Kernels that a micro-batch needs forward and backward, by count of torch's operations (without rotary
positions a block has half as many)."""
LAUNCH = 1e-5
"""Seconds from one kernel to the next where there is little work in each; assumed."""
FEATURES = 400
"""Features that are assumed where there is no corpus yet."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on GPUs that are not there yet, or on CPUs."""

    config: PretrainConfig
    shape: EncoderConfig
    n_parameters: int
    n_ranks: int
    memory: float
    """Of a GPU, bytes."""
    batch: BatchPlan
    sequences: list[tuple[str, int, int]]
    """Each feature space with its features and volumes of a sequence."""
    data: str
    """What is known of the corpus."""
    resident: int
    """Bytes of the corpus that every GPU holds."""
    device: Literal["gpu", "cpu"] = "gpu"
    """What a rank computes on."""

    @classmethod
    def of(
        cls, config: PretrainConfig, n_ranks: int, memory: float, device: Literal["gpu", "cpu"] = "gpu"
    ) -> "Plan":
        """Resolve model, batch and corpus."""
        settings = config.train
        batch = plan_batch(settings.global_batch, settings.max_micro_batch, n_ranks)
        where, resident = config.data.corpus, 0
        if is_url(where) or expand(where).exists():
            corpus = Corpus.open(where, config.data.cache, config.data.cache_gb)
            mapped = dataclasses.replace(config.data, access="mmap", volume_order="recorded", verify=False)
            loader = NTPLoader(corpus, mapped, "train", settings.seed, settings.global_batch)
            shape = shape_for(config, loader)
            sequences = [(group.space.name, group.space.n_features, group.length) for group in loader.groups]
            pairs = 2 * loader.n_windows
            epochs = settings.steps * settings.global_batch / pairs
            data = f"{corpus}: {pairs:,} pairs an epoch, {epochs:,.1f} epochs in the run"
            if config.data.access == "device":
                runs = corpus.runs[corpus.runs.key.isin(loader.run_keys)]
                resident = int(2 * (runs.n_volumes * runs.n_features).sum())
        else:
            length = config.data.pairs.length
            if not isinstance(length, int):
                raise UserError(f"{where} is not there: data.pairs.length '{length}' cannot be made volumes")
            sequences = [("any", FEATURES, length)]
            shape = resolve_encoder(config.model, {"any": FEATURES}, length)
            data = f"{where} is not there yet; {FEATURES} features assumed, epochs unknown"
        return cls(
            config=config,
            shape=shape,
            n_parameters=Objective.of(settings).count_parameters(shape),
            n_ranks=n_ranks,
            memory=memory,
            batch=batch,
            sequences=sequences,
            data=data,
            resident=resident,
            device=device,
        )

    @property
    def unit(self) -> str:
        """What one rank computes on, in words."""
        return "GPU" if self.device == "gpu" else "rank"

    @property
    def usable(self) -> float:
        """Bytes of a GPU that training may take."""
        return USABLE * self.memory

    def precision(self, stage: int) -> str:
        """Return the precision on a GPU with 16-bit hardware; CPUs and stage 0 have float32 alone."""
        chosen = self.config.train.precision
        if stage == 0 or (self.device == "cpu" and chosen == "auto"):
            return "fp32"
        return "bf16" if chosen == "auto" else chosen

    def states(self, stage: int) -> States:
        """Return what a rank holds beside activations."""
        offload = self.config.train.offload if stage > 0 else "none"
        return states(
            self.n_parameters,
            stage,
            self.n_ranks,
            self.precision(stage),
            offload=offload,
            overlap=self.device == "gpu",
        )

    def activations(self, stage: int, n_pairs: int, recompute: bool) -> int:
        """Return the most bytes of activations over all spaces and lengths."""
        size, train = itemsize(self.precision(stage)), self.config.train
        return max(
            activation_bytes(
                self.shape,
                n_pairs,
                n_features=features,
                length=length,
                itemsize=size,
                mask_itemsize=1 if self.device == "gpu" else size,
                recompute=recompute,
                alone=train.pair == "siamese",
                every_token=self.every_token,
            ).total
            for _, features, length in self.sequences
        )

    def total(self, stage: int, recompute: bool) -> int:
        """Return all bytes of a rank's GPU."""
        return self.states(stage).total + self.resident + self.activations(stage, self.batch.micro, recompute)

    def largest_micro_batch(self, stage: int, recompute: bool) -> int:
        """Return the largest micro-batch that fits and divides a rank's share of the batch; 0 = none."""
        free = self.usable - self.states(stage).total - self.resident
        most = int(free // self.activations(stage, 1, recompute))
        per_rank = self.config.train.global_batch // self.n_ranks
        return plan_batch(per_rank, most, 1).micro if most > 0 else 0

    @property
    def every_token(self) -> bool:
        """Whether the last block computes more than CLS."""
        return self.config.train.pool == "mean" or self.config.train.masked_weight > 0

    def pairs_per_s_on_cpu(self, flops: float) -> float:
        """Return the rate of one rank whose matrix product does so many operations a second."""
        return min(
            cpu_pairs_per_s(
                self.shape,
                self.batch,
                self.n_parameters,
                flops,
                space=space,
                length=length,
                every_token=self.every_token,
                recompute=self.config.train.activation_checkpointing,
                stage=self.config.train.zero_stage,
            )
            for space, _, length in self.sequences
        )

    def pairs_per_s(self, flops: float) -> float:
        """Return the rate of one GPU that does so many operations a second, launches allowing."""
        per_pair = max(train_flops(self.shape, space, length) for space, _, length in self.sequences)
        again = 4 / 3 if self.config.train.activation_checkpointing else 1  # one forward pass more
        half = 0.5 if self.precision(self.config.train.zero_stage) == "fp32" else 1
        kernels = KERNELS_OF_BLOCK * self.shape.n_layers + KERNELS_BESIDE
        return min(flops * half / (per_pair * again), self.batch.micro / (kernels * LAUNCH))

    def title(self, n_nodes: int) -> str:
        """Return the first line."""
        shape, n_gpus = self.shape, self.n_ranks // n_nodes
        return (
            f"{shape.preset}: {self.n_parameters:,} parameters, width {shape.d_model}, {shape.n_layers} "
            f"layers, {shape.n_heads} heads; {n_nodes} x {n_gpus} {self.unit}s of {self.memory / GIB:.3g} GiB"
        )

    def table(self) -> list[str]:
        """Return the memory of a GPU, one column a ZeRO stage."""
        stages, chosen = range(4), self.config.train.zero_stage

        def row(name: str, cells: list[str]) -> str:
            return f"{name:<34}" + "".join(f"{cell:>12}" for cell in cells)

        def gib(name: str, counts: list[int]) -> str:
            return row(name, [f"{count / GIB:,.2f}" for count in counts])

        held = [self.states(stage) for stage in stages]
        lines = [
            row(
                f"GiB on each {self.unit}",
                [f"{'> ' if stage == chosen else ''}ZeRO {stage}" for stage in stages],
            ),
            row("precision", [self.precision(stage) for stage in stages]),
            gib("parameters", [h.weights for h in held]),
            gib("gradients", [h.gradients for h in held]),
            gib("optimiser states", [h.optimizer for h in held]),
            gib("buffers", [h.buffers for h in held]),
        ]
        if self.resident:
            lines.append(gib("corpus", [self.resident] * 4))
        if any(h.host for h in held):
            lines.append(gib("(offloaded, a rank)", [h.host for h in held]))
        for recompute in (False, True):
            mark = "> " if recompute == self.config.train.activation_checkpointing else ""
            totals = [self.total(stage, recompute) for stage in stages]
            micro = [self.largest_micro_batch(stage, recompute) for stage in stages]
            activations = [self.activations(stage, self.batch.micro, recompute) for stage in stages]
            lines += [
                "",
                f"{mark}{'with' if recompute else 'without'} activation checkpointing",
                gib(f"  activations of {self.batch.micro} pairs", activations),
                gib("  in all", totals),
                row(
                    f"  fits into {self.usable / GIB:.1f}", [("no", "yes")[t <= self.usable] for t in totals]
                ),
                row("  largest micro-batch that fits", [f"{m:,}" if m else "-" for m in micro]),
            ]
        return lines

    def facts(self, rate: float, source: str, gpus_a_node: int) -> list[str]:
        """Return batch, speed, corpus, checkpoint and host memory."""
        settings, batch, stage = self.config.train, self.batch, self.config.train.zero_stage
        total = rate * self.n_ranks
        days = settings.steps * batch.pairs / total / 86400
        duration = f"{days:,.1f} days" if days >= 2 else f"{24 * days:,.1f} hours"
        saved = (MASTER + MOMENTS) * self.n_parameters
        host = "weights while they are built, later a copy of a checkpoint's part"
        lines = [
            f"batch       {batch.pairs} pairs = {batch.micro} x {batch.accumulation} accumulated x "
            f"{batch.world} {self.unit}s",
            f"speed       {total:,.0f} pairs/s, {settings.steps:,} steps in {duration} ({source})",
            f"corpus      {self.data}",
            f"checkpoint  {saved / GIB:,.2f} GiB, the last {settings.keep_last} are kept; "
            f"encoder/ {4 * self.n_parameters / GIB:,.2f} GiB",
            f"host        {self.host(gpus_a_node) / GIB:,.1f} GiB on the first node: {host}",
        ]
        if host := self.states(stage).host:
            lines.append(f"offloaded   {host * gpus_a_node / GIB:,.1f} GiB a node, to {settings.offload}")
        return lines

    def host(self, gpus_a_node: int) -> int:
        """Return the most bytes of host memory that ranks of the first node hold at a time.

        Below stage 3 each builds the whole model, at stage 3 a block at a time. Later each keeps a copy of
        its part of a checkpoint, and rank 0 collects the weights of encoder/.
        """
        whole = MASTER * self.n_parameters
        building = whole * gpus_a_node if self.config.train.zero_stage < 3 else 0
        copies = (MASTER + MOMENTS) * self.n_parameters * gpus_a_node // self.n_ranks
        return max(building, copies + whole)

    def remedy(self) -> str:
        """Return what would fit: the least change first."""
        stage, recompute = self.config.train.zero_stage, self.config.train.activation_checkpointing
        for other in range(stage, 4):
            for again in sorted({recompute, True}):
                if micro := self.largest_micro_batch(other, again):
                    changes = [f"--train.max_micro_batch {min(micro, self.batch.micro)}"]
                    changes += [f"--train.zero_stage {other}"] * (other != stage)
                    changes += ["--train.activation_checkpointing true"] * (again != recompute)
                    return f"This would: {' '.join(changes)}"
        return "Take more GPUs, GPUs with more memory, --train.offload cpu, or a smaller model.preset"
