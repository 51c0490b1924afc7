"""The numbers of an encoder: what a preset has, what a recipe overrides, and what the data decide."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from fmriscale.common.errors import UserError
from fmriscale.config import ModelConfig

N_FLAGS = 3
"""Flag columns before the features of a raw token: CLS, (mask,) SEP."""
N_BINS = 5
"""Bins of time that pool: bins keeps."""
Pool = Literal["cls", "mean", "bins"]
"""One vector of all tokens: CLS, the mean over those of volumes, or their means in bins of time."""
PairWay = Literal["joint", "siamese"]
"""Both windows through the encoder together, or each alone."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A resolved encoder: every number is there, nothing is left to a preset."""

    preset: str  # Preset it was resolved from
    spaces: dict[str, int]  # Number of features of every feature space it can read
    length: int  # Volumes in a sequence (any length will do where positions are rotary)
    d_model: int  # Width
    n_layers: int  # Number of blocks
    n_heads: int  # Attention heads
    d_ff: int  # Width of the feed-forward layer
    dropout: float  # Dropout rate
    norm: Literal["pre", "post"]
    """Layer norm before each sub-layer, or after the residual sum as published."""
    positions: Literal["learned", "rotary"]
    """One learned vector a token, or rotation by the time of the volume in seconds."""
    activation: Literal["relu", "gelu"]
    """Of the feed-forward layer."""
    start: Literal["random", "identity"] = "random"
    """identity: a new block returns what it is given."""
    input_dropout: float = 0.0  # Share of the features of volumes that are zeroed in training

    def to_dict(self) -> dict:
        """Return plain values, ready for JSON; those that encoders did not always have only where set."""
        later = {field.name: field.default for field in dataclasses.fields(self)}
        return {k: v for k, v in dataclasses.asdict(self).items() if v != later[k]}


_PAPER: dict[str, Any] = {"dropout": 0.1, "norm": "post", "positions": "learned", "activation": "relu"}
_ROTARY: dict[str, Any] = {"dropout": 0.0, "norm": "pre", "positions": "rotary", "activation": "gelu"}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"d_model": 0, "n_layers": 3, "n_heads": 2, **_PAPER},  # the width follows from the features
    "tiny": {"d_model": 128, "n_layers": 4, "n_heads": 4, **_ROTARY},
    "base": {"d_model": 768, "n_layers": 12, "n_heads": 12, **_ROTARY},
    "large": {"d_model": 1280, "n_layers": 18, "n_heads": 20, **_ROTARY},
    "1b": {"d_model": 2048, "n_layers": 20, "n_heads": 16, **_ROTARY},
    "7b": {"d_model": 4096, "n_layers": 35, "n_heads": 32, **_ROTARY},
}


def resolve_encoder(model: ModelConfig, spaces: dict[str, int], length: int) -> EncoderConfig:
    """Complete a recipe's model from its preset, the features of each space and the volumes of a sequence."""
    chosen = {name: value for name, value in dataclasses.asdict(model).items() if value is not None}
    values = PRESETS[model.preset] | chosen
    if (start := values.pop("init_projection")) != "random" and values["positions"] == "learned":
        raise UserError(
            f"model.init_projection {start} needs a projection, which preset {model.preset} has not: take "
            "preset tiny or base, or model.init_projection random"
        )
    if values["start"] == "identity" and values["norm"] == "post":
        raise UserError(
            "model.start identity needs norms before each sub-layer, which preset paper has after it: take "
            "preset tiny or base, or model.start random"
        )
    n_heads = values["n_heads"]
    if model.preset == "paper":
        values["d_model"] = _width_of_paper(model, spaces, n_heads)
    elif values["d_model"] % (2 * n_heads):
        raise UserError(
            f"model.d_model is {values['d_model']}; with {n_heads} heads and rotary positions it must be a "
            f"multiple of {2 * n_heads}"
        )
    return EncoderConfig(**values, spaces=dict(spaces), length=length, d_ff=4 * values["d_model"])


def _width_of_paper(model: ModelConfig, spaces: dict[str, int], n_heads: int) -> int:
    """Return the width of the published model: features and flags, padded to a multiple of the heads.

    A recipe may ask for more zero columns, which suits some hardware (`slow_width`).
    """
    if len(spaces) != 1:
        raise UserError(
            f"model.preset paper reads one feature space, the data have {sorted(spaces)}: "
            "name one in data.space, or take a preset with a projection (tiny, base, ...)"
        )
    d_model = math.ceil((next(iter(spaces.values())) + N_FLAGS) / n_heads) * n_heads
    if model.d_model is None:
        return d_model
    if model.d_model < d_model or model.d_model % n_heads:
        raise UserError(
            f"model.d_model is {model.d_model}, but preset paper has no projection: its width is "
            f"{d_model} (features + 3, a multiple of {n_heads} heads), or a larger multiple. Leave "
            "model.d_model out"
        )
    return model.d_model


def slow_width(encoder: EncoderConfig, precision: str) -> str:
    """Say that a width does not suit units that multiply matrices in 16 bits, and which would; '' = it does.

    They read 16 bytes at a time. A multiple of 8 in each head suits their attention too.
    """
    width, step = encoder.d_model, 8 * encoder.n_heads
    if precision == "fp32" or width % 8 == 0:
        return ""
    better = math.ceil(width / step) * step
    how = f" ({better - width} zero columns beside the features)" if encoder.positions == "learned" else ""
    return (
        f"a token of width {width} is a row of {2 * width} bytes, which is slow in {precision} because it is "
        f"no multiple of 16; --model.d_model {better}{how} avoids it"
    )
