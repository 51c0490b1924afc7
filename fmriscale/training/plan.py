"""`fmriscale plan --config X`: what a run needs and how long it takes, before anything is started.

Assumed: the GPU reaches --mfu of its dense peak while it computes (in float32 that of TF32), but is never
faster than a host launches its kernels, which bounds small models; ranks exchange as `step_time` says; and
CUDA, NCCL and fragmentation take 8 % of its memory.
A rate measured in a short run and given as --pairs-per-s is worth more. With --cpu the matrix product of this
machine is measured. Counted, and checked against allocations of real steps: parameters, gradients, optimiser
states, DeepSpeed's buffers, and activations.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fmriscale.common.errors import EXIT_OK, EXIT_USAGE, UserError
from fmriscale.config import PretrainConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse
from fmriscale.model.flops import GPUS, peak_tflops
from fmriscale.model.presets import slow_width

if TYPE_CHECKING:
    from fmriscale.training.prediction import Plan

GIB = 2**30
STAGES = range(4)
"""Of ZeRO."""


def main(args: list[str] | None = None) -> int:
    """Print the plan; exit code 2 where the configuration does not fit."""
    options, config = _parse(sys.argv[1:] if args is None else args)
    # Imported here: help and refusals need no torch.
    from fmriscale.training.prediction import Plan, cpu_flops

    gpu_gib, _ = GPUS[options.gpu]
    memory = (options.gpu_gb or gpu_gib) * GIB
    if options.cpu and not options.gpu_gb:
        import psutil

        memory = psutil.virtual_memory().total / options.gpus
    plan = Plan.of(config, options.nodes * options.gpus, memory, "cpu" if options.cpu else "gpu")
    precision = plan.precision(config.train.zero_stage)
    if options.pairs_per_s:
        rate, source = options.pairs_per_s, f"measured: {options.pairs_per_s:,.0f} on one {_unit(plan)}"
    elif options.cpu:
        flops = cpu_flops(options.gpus, precision)
        rate = plan.pairs_per_s_on_cpu(flops)
        source = f"estimated: a rank's matrix product does {flops / 1e9:,.0f} GFLOP/s here"
    else:
        tflops = peak_tflops(options.gpu, precision)
        step = plan.step_time(tflops * 1e12 * options.mfu, options.gpus)
        rate = plan.pairs_a_step / plan.batch.world_size / step.total
        source = (
            f"assumed: {options.mfu:.0%} of the {tflops:g} dense TFLOP/s of {options.gpu} in {precision}; a "
            f"step takes {step}"
        )
    encoder = plan.encoder
    print(
        f"{encoder.preset}: {plan.n_parameters:,} parameters, width {encoder.d_model}, {encoder.n_layers} "
        f"layers, {encoder.n_heads} heads; {options.nodes} x {options.gpus} {_unit(plan)}s of "
        f"{plan.memory / GIB:.3g} GiB\n"
    )
    print("\n".join([*_memory_table(plan), "", *_facts(plan, rate, source, options.gpus)]))
    if plan.total(config.train.zero_stage, config.train.activation_checkpointing) <= plan.usable:
        return EXIT_OK
    print(f"\nIt does not fit. {_remedy(plan)}")
    return EXIT_USAGE


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    parser = CommandLine(
        "fmriscale plan",
        PretrainConfig,
        description="Memory by ZeRO stage, speed, days and checkpoint size of a pre-training run.",
        epilog="All other options override the recipe, as for pretrain:",
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes (1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of a node (1)")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="H100", help="model of the GPU (H100)")
    parser.add_argument("--gpu-gb", type=float, help="memory of a GPU, GiB (that of the model)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (0.4)")
    parser.add_argument("--pairs-per-s", type=float, help="measured rate of one GPU, instead of --mfu")
    parser.add_argument(
        "--cpu", action="store_true", help="on CPUs such as this machine's: --gpus ranks a node"
    )
    return parser


def _parse(args: list[str]) -> tuple[argparse.Namespace, PretrainConfig]:
    """Read the options of this verb, and the recipe with its overrides."""
    parser = parser_of_verb()
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    options, recipe = parser.parse_known_args(args)
    numbers = (options.nodes, options.gpus, options.mfu, options.gpu_gb, options.pairs_per_s)
    if not all(0 < number < math.inf for number in numbers if number is not None):
        raise UserError("--nodes, --gpus, --gpu-gb, --mfu and --pairs-per-s must be above 0, and finite")
    if options.mfu > 1:
        raise UserError(f"--mfu is {options.mfu:g}; it is a share of the peak, at most 1 (0.4 = 40 %)")
    return options, parse(PretrainConfig, recipe, prog="fmriscale plan")


def _unit(plan: "Plan") -> str:
    return "GPU" if plan.device == "gpu" else "rank"


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<34}" + "".join(f"{cell:>12}" for cell in cells)


def _gib(name: str, sizes: Iterable[int]) -> str:
    return _row(name, (f"{size / GIB:,.2f}" for size in sizes))


def _memory_table(plan: "Plan") -> list[str]:
    """Return the memory of a rank, one column a ZeRO stage."""
    train, n_pairs = plan.config.train, plan.batch.micro_batch_size
    held = [plan.states(stage) for stage in STAGES]
    stages = (f"{'> ' if stage == train.zero_stage else ''}ZeRO {stage}" for stage in STAGES)
    lines = [
        _row(f"GiB on each {_unit(plan)}", stages),
        _row("precision", map(plan.precision, STAGES)),
        _gib("parameters", (h.weights for h in held)),
        _gib("gradients", (h.gradients for h in held)),
        _gib("optimiser states", (h.optimizer for h in held)),
        _gib("buffers", (h.buffers for h in held)),
    ]
    if plan.resident:
        lines.append(_gib("corpus", [plan.resident] * len(STAGES)))
    if any(h.host for h in held):
        lines.append(_gib("(offloaded, a rank)", (h.host for h in held)))
    for recompute in (False, True):
        chosen = "> " if recompute == train.activation_checkpointing else ""
        totals = [plan.total(stage, recompute) for stage in STAGES]
        largest = (plan.largest_micro_batch(stage, recompute) for stage in STAGES)
        activations = (plan.activations(stage, n_pairs, recompute) for stage in STAGES)
        lines += [
            "",
            f"{chosen}{'with' if recompute else 'without'} activation checkpointing",
            _gib(f"  activations of {n_pairs} pairs" if train.reads_pairs else "  activations", activations),
            _gib("  in all", totals),
            _row(
                f"  fits into {plan.usable / GIB:.1f}", ("yes" if t <= plan.usable else "no" for t in totals)
            ),
            _row("  largest micro-batch that fits", (f"{n:,}" if n else "-" for n in largest)),
        ]
    return lines


def _facts(plan: "Plan", rate: float, source: str, ranks_per_node: int) -> list[str]:
    """Return batch, speed, corpus, checkpoint and host memory, at a rate of pairs/s of one rank."""
    settings = plan.config.train
    total = rate * plan.batch.world_size
    days = settings.steps * plan.pairs_a_step / total / 86400
    duration = f"{days:,.1f} days" if days >= 2 else f"{24 * days:,.1f} hours"
    host = "weights while they are built, later a copy of a checkpoint's part"
    lines = [
        f"batch       {_batch(plan)}",
        f"speed       {total:,.0f} pairs/s, {settings.steps:,} steps in {duration} ({source})",
        f"corpus      {plan.description}",
        f"checkpoint  {12 * plan.n_parameters / GIB:,.2f} GiB, the last {settings.keep_last} are kept; "
        f"encoder/ {4 * plan.n_parameters / GIB:,.2f} GiB",
        f"host        {plan.host_memory(ranks_per_node) / GIB:,.1f} GiB on the first node: {host}",
    ]
    if note := slow_width(plan.encoder, plan.precision(settings.zero_stage)):
        lines.append(f"note        {note}")
    if offloaded := plan.states(settings.zero_stage).host:
        gib = offloaded * ranks_per_node / GIB
        lines.append(f"offloaded   {gib:,.1f} GiB a node, to {settings.offload}")
    return lines


def _batch(plan: "Plan") -> str:
    """Say what is read in a step."""
    train = plan.config.train
    parts = [f"{plan.batch} {_unit(plan)}s"] if train.reads_pairs else []
    if train.contrastive_weight > 0:
        parts.append(
            f"{train.contrastive_windows} windows of {train.contrastive_people} people, over "
            f"{plan.batch.world_size} {_unit(plan)}s (a window counts as half a pair)"
        )
    return " and ".join(parts)


def _remedy(plan: "Plan") -> str:
    """Return what would fit: the least change first."""
    chosen, recompute = plan.config.train.zero_stage, plan.config.train.activation_checkpointing
    for stage in range(chosen, len(STAGES)):
        for again in sorted({recompute, True}):
            if micro := plan.largest_micro_batch(stage, again):
                changes = [f"--train.max_micro_batch {min(micro, plan.batch.micro_batch_size)}"]
                changes += [f"--train.zero_stage {stage}"] * (stage != chosen)
                changes += ["--train.activation_checkpointing true"] * (again != recompute)
                return f"This would: {' '.join(changes)}"
    return "Take more GPUs, GPUs with more memory, --train.offload cpu, or a smaller model.preset"
