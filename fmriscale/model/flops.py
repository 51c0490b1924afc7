"""Floating-point operations of the model, for throughput that can be compared between machines."""

from fmriscale.model.presets import EncoderConfig

GPUS = {
    "A100-40GB": (40, 312),
    "A100": (80, 312),
    "A40": (48, 150),
    "B200": (180, 2250),
    "H100": (80, 989),
    "H100-NVL": (94, 835),
    "H100-PCIe": (80, 756),
    "H200": (141, 989),
    "H200-NVL": (141, 835),
    "L40S": (48, 362),
    "MI300X": (192, 1307),
    "V100": (32, 125),
}
"""Memory, GiB, and dense 16-bit peak, TFLOP/s, of GPUs as their makers state them (H100: SXM)."""
WITHOUT_TF32 = {"V100": 15.7}
"""Peak in float32, TFLOP/s, of GPUs without TF32, which does half as much as 16 bits; nor have they bf16."""


def peak_tflops(model: str, precision: str) -> float:
    """Return the peak of a GPU in `GPUS` in fp32 (as TF32 where it has it), bf16 or fp16, TFLOP/s."""
    peak = GPUS[model][1]
    return WITHOUT_TF32.get(model, peak / 2) if precision == "fp32" else peak


def gpu_model(name: str) -> str:
    """Return the model in `GPUS` that a device's name says, '' = none: `NVIDIA H100 PCIe` is H100-PCIe.

    Whole words count: an RTX A4000 is no A40, and an RTX A1000 no A100.
    """
    words = set(name.replace("-", " ").split())
    known = [model for model in GPUS if set(model.split("-")) <= words]
    return max(known, key=lambda model: model.count("-"), default="")


def forward_flops(config: EncoderConfig, space: str | None = None, length: int | None = None) -> int:
    """Operations of one forward pass of one pair through the FULL model (a multiply-add counts 2).

    The trainer does less where its last block computes CLS alone; `computed_flops` counts that.
    """
    length = length or config.length
    tokens, d = 2 * length + 2, config.d_model
    n_features = config.spaces[space] if space else next(iter(config.spaces.values()))
    projection = 2 * 2 * length * n_features * d if config.positions == "rotary" else 0
    per_layer = 2 * tokens * (4 * d * d + 2 * d * config.d_ff) + 4 * tokens * tokens * d
    return projection + config.n_layers * per_layer + 2 * d * 2


def train_flops(config: EncoderConfig, space: str | None = None, length: int | None = None) -> int:
    """Operations of forward and backward of one pair: the backward pass costs twice the forward."""
    return 3 * forward_flops(config, space, length)


def computed_flops(
    config: EncoderConfig, space: str | None = None, length: int | None = None, *, every_token: bool = False
) -> int:
    """Operations of forward and backward of one pair as it is computed: the last block for CLS alone."""
    if every_token:
        return train_flops(config, space, length)
    tokens, d = 2 * (length or config.length) + 2, config.d_model
    whole = tokens * (8 * d * d + 4 * d * config.d_ff) + 4 * tokens * tokens * d
    feed = 4 * d * config.d_ff
    if config.positions == "rotary":  # keys and values of all tokens
        last = 4 * d * d + 4 * tokens * d * d + 4 * tokens * d + feed
    else:
        last = 8 * d * d + 4 * config.n_heads * tokens * d + feed
    return train_flops(config, space, length) - 3 * (whole - last)
