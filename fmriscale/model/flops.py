"""Floating-point operations of the model, for throughput that can be compared between machines."""

from fmriscale.model.presets import EncoderConfig

GPUS = {
    "A100-40GB": (40, 312),
    "A100": (80, 312),
    "A40": (48, 150),
    "B200": (180, 2250),
    "H100": (80, 989),
    "H200": (141, 989),
    "L40S": (48, 362),
    "MI300X": (192, 1307),
    "V100": (32, 125),
}
"""Memory, GiB, and dense 16-bit peak, TFLOP/s, of GPUs as their makers state them."""


def forward_flops(config: EncoderConfig, space: str | None = None, length: int | None = None) -> int:
    """Operations of one forward pass of one pair through the FULL model (a multiply-add counts 2).

    The trainer does less: its last block computes CLS alone. Figures made from this number are
    therefore operations of the published computation per second, whatever way they were saved.
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
