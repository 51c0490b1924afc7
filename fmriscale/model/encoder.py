"""The stacked encoder: [CLS, left, SEP, right] -> a vector that says what CLS has gathered.

Shapes: B pairs, L volumes a sequence, V features, T = 2 L + 2 tokens, D width, C classes.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmriscale.common.errors import UserError
from fmriscale.config import ModelConfig
from fmriscale.model.activation import relu_
from fmriscale.model.attention import Attention, rotary_waves
from fmriscale.model.dropout import Dropout
from fmriscale.model.embedding import N_FLAGS, ProjectedEmbedding, RawEmbedding, token_times

Pool = Literal["cls", "mean"]
"""One vector of all tokens: CLS, or the mean over those of volumes."""
PairWay = Literal["joint", "siamese"]
"""Both windows through the encoder together, or each alone."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A resolved encoder: every number is there, nothing is left to a preset."""

    preset: str
    """Preset it was resolved from."""
    spaces: dict[str, int]
    """Number of features of every feature space it can read."""
    length: int
    """Volumes in a sequence (any length will do where positions are rotary)."""
    d_model: int
    """Width."""
    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Attention heads."""
    d_ff: int
    """Width of the feed-forward layer."""
    dropout: float
    """Dropout rate."""
    norm: Literal["pre", "post"]
    """Layer norm before each sub-layer, or after the residual sum as published."""
    positions: Literal["learned", "rotary"]
    """One learned vector a token, or rotation by the time of the volume in seconds."""
    activation: Literal["relu", "gelu"]
    """Of the feed-forward layer."""

    def to_dict(self) -> dict:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Preset:
    d_model: int
    n_layers: int
    n_heads: int
    dropout: float
    norm: Literal["pre", "post"]
    positions: Literal["learned", "rotary"]
    activation: Literal["relu", "gelu"]


PRESETS = {
    "paper": _Preset(0, 3, 2, 0.1, "post", "learned", "relu"),
    "tiny": _Preset(128, 4, 4, 0.0, "pre", "rotary", "gelu"),
    "base": _Preset(768, 12, 12, 0.0, "pre", "rotary", "gelu"),
    "large": _Preset(1280, 18, 20, 0.0, "pre", "rotary", "gelu"),
    "1b": _Preset(2048, 20, 16, 0.0, "pre", "rotary", "gelu"),
    "7b": _Preset(4096, 35, 32, 0.0, "pre", "rotary", "gelu"),
}


def resolve_encoder(model: ModelConfig, spaces: dict[str, int], length: int) -> EncoderConfig:
    """Fill in a model's settings from its preset and from the data.

    Parameters
    ----------
    model : ModelConfig
        The settings; None = as the preset has it.
    spaces : dict
        Number of features of each feature space.
    length : int
        Volumes in a sequence.

    Returns
    -------
    EncoderConfig
        The resolved encoder.

    Raises
    ------
    UserError
        The width does not suit the data, the number of heads or the preset.
    """
    preset = PRESETS[model.preset]
    n_heads = model.n_heads or preset.n_heads
    if model.preset == "paper":
        if len(spaces) != 1:
            raise UserError(
                f"model.preset paper reads one feature space, the data have {sorted(spaces)}: "
                "name one in data.space, or take a preset with a projection (tiny, base, ...)"
            )
        width = next(iter(spaces.values())) + N_FLAGS
        d_model = math.ceil(width / n_heads) * n_heads
        if model.d_model not in (None, d_model):
            raise UserError(
                f"model.d_model is {model.d_model}, but preset paper has no projection: its width is "
                f"{d_model} (features + 3, a multiple of {n_heads} heads). Leave model.d_model out"
            )
    else:
        d_model = model.d_model or preset.d_model
        if d_model % (2 * n_heads):
            raise UserError(
                f"model.d_model is {d_model}; with {n_heads} heads and rotary positions it must be a "
                f"multiple of {2 * n_heads}"
            )
    return EncoderConfig(
        preset=model.preset,
        spaces=dict(spaces),
        length=length,
        d_model=d_model,
        n_layers=model.n_layers or preset.n_layers,
        n_heads=n_heads,
        d_ff=4 * d_model,
        dropout=preset.dropout if model.dropout is None else model.dropout,
        norm=preset.norm,
        positions=preset.positions,
        activation=preset.activation,
    )


class Block(nn.Module):
    """Attention and feed-forward, each with its residual, norm and dropout."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.attention = Attention(config.d_model, config.n_heads)
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.norm_feed = nn.LayerNorm(config.d_model)
        # No gradient needs what a norm, or `up`, has made: it may be overwritten.
        self.dropout = Dropout(config.dropout, inplace=not self.pre)
        self.activate = relu_ if config.activation == "relu" else F.gelu

    def forward(
        self, x_BTD: Tensor, waves: tuple[Tensor, Tensor] | None = None, cls_only: bool = False
    ) -> Tensor:
        """Return [B, T, D], or [B, 1, D] with `cls_only`: the same CLS for less work."""
        # A slice of all tokens would cost a copy in the backward pass.
        x_BSD = x_BTD[:, :1] if cls_only else x_BTD
        if self.pre:
            y = self.attention(self.norm_attention(x_BTD), waves, cls_only)
            x_BSD = x_BSD + self.dropout(y)
            return x_BSD + self.dropout(self._feed(self.norm_feed(x_BSD)))
        # Dropout after the norm, not inside the residual branch: so it was published.
        y = self.attention(x_BTD, waves, cls_only)
        x_BSD = self.dropout(self.norm_attention(x_BSD + y))
        return self.dropout(self.norm_feed(x_BSD + self._feed(x_BSD)))

    def _feed(self, x_BSD: Tensor) -> Tensor:
        # Rows of a matrix: for more dimensions torch returns a view, and to overwrite one costs copies.
        x_ND = x_BSD.flatten(0, 1)
        return self.down(self.activate(self.up(x_ND))).view_as(x_BSD)


class Encoder(nn.Module):
    """Two sequences in, the CLS vector out.

    Attributes
    ----------
    recompute : bool
        Keep only the input of each block but the last and compute the rest again in the backward pass.
        The last block's turn comes at once: to forget it would save nothing.
    meta : dict
        What it was saved with: feature_spaces, pairs, t_r, train_runs, ...; empty before it is.
    """

    recompute = False

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Encoder":
        """Read the encoder/ folder of a pre-training run, or the model/ folder of a study.

        Returns
        -------
        Encoder
            In evaluation mode, on the CPU.

        Raises
        ------
        UserError, DamageError
            No encoder there; or weights that are not those that config.json tells of.
        """
        from fmriscale.model.export import load_encoder

        return load_encoder(Path(folder))[0]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.meta: dict[str, Any] = {}
        if config.positions == "learned":
            n_features = next(iter(config.spaces.values()))
            self.embedding = RawEmbedding(n_features, config.length, config.d_model)
        else:
            self.embedding = ProjectedEmbedding(config.spaces, config.d_model)
        self.dropout = Dropout(config.dropout, inplace=True)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def compile_blocks(self) -> None:
        """Have torch compile the blocks at their first use: one graph for all, weights keep their names."""
        for block in self.blocks:
            block.compile()

    def forward(
        self,
        left_BLV: Tensor,
        right_BLV: Tensor,
        t_r_B: Tensor,
        space: str | None = None,
        every_token: bool = False,
        added_BTD: Tensor | None = None,
    ) -> Tensor:
        """Encode pairs of sequences.

        Parameters
        ----------
        left_BLV, right_BLV : Tensor
            Standardised volumes; any float dtype, converted to that of the weights.
        t_r_B : Tensor
            Repetition time, s (rotary positions use it).
        space : str, optional
            Feature space of the volumes; may be left out where the encoder has only one.
        every_token : bool
            Return all tokens. The last block then computes all of them, not CLS alone.
        added_BTD : Tensor, optional
            Added to the tokens before the first block: marks of masked volumes.

        Returns
        -------
        Tensor
            CLS [B, D], or all tokens [B, T, D].
        """
        x_BTD = self.embedding(left_BLV, right_BLV, space)
        x_BTD = self.dropout(x_BTD if added_BTD is None else x_BTD + added_BTD)
        waves = None
        if self.config.positions == "rotary":
            times_BT = token_times(t_r_B, left_BLV.shape[1], right_BLV.shape[1])
            waves = rotary_waves(times_BT, self.config.d_model // self.config.n_heads)
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            if self.recompute and i < last and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, waves, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, waves, cls_only=i == last and not every_token)
        x_BTD = self.norm(x_BTD)
        return x_BTD if every_token else x_BTD[:, 0]

    def pooled(
        self, left_BLV: Tensor, right_BLV: Tensor, t_r_B: Tensor, space: str | None = None, pool: Pool = "cls"
    ) -> Tensor:
        """Return one vector a pair, [B, D]: CLS, or the mean over the tokens of volumes (not CLS and SEP)."""
        x = self(left_BLV, right_BLV, t_r_B, space, every_token=pool == "mean")
        return x if pool == "cls" else mean_of_volumes(x, left_BLV.shape[1])

    def embed(
        self, window_BLV: Tensor, t_r_B: Tensor, space: str | None = None, pool: Pool = "mean"
    ) -> Tensor:
        """Return one vector a window, [B, D].

        The window is left of a pair without right; where positions are learned, for which a pair has one
        length alone, it is right as well. On Haxby 2001 (8 categories, 96 windows, linear probe on left-out
        runs, two encoders of joint pairs) it made no difference whether the window was given twice, stood
        alone or was cut in halves: .48-.51, .48, .45-.50 from the mean over tokens. CLS gave .27-.33: NTP
        asks it for the relation of two sequences, not for either.
        """
        alone = self.config.positions == "rotary"
        right_BLV = window_BLV[:, :0] if alone else window_BLV
        return self.pooled(window_BLV, right_BLV, t_r_B, space, pool)


class PairClassifier(nn.Module):
    """An encoder and a linear head that starts at zero: before training every class is as likely.

    Parameters
    ----------
    encoder : Encoder
        The encoder.
    n_classes : int
        C.
    pair : {"joint", "siamese"}
        joint: both windows go through the encoder together, as in pre-training; siamese: each alone, and
        the head sees |a - b| and a * b, so that the answer is the same for (left, right) and (right, left).
    pool : {"cls", "mean"}
        What of the encoder's tokens the head sees.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_classes: int = 2,
        pair: PairWay = "joint",
        pool: Pool = "cls",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pair: PairWay = pair
        self.pool: Pool = pool
        self.head = nn.Linear(encoder.config.d_model * (1 if pair == "joint" else 2), n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, left_BLV: Tensor, right_BLV: Tensor, t_r_B: Tensor, space: str | None = None) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(left_BLV, right_BLV, t_r_B, space))

    def features(
        self, left_BLV: Tensor, right_BLV: Tensor, t_r_B: Tensor, space: str | None = None
    ) -> Tensor:
        """Return what the head sees of each pair, [B, D] or (siamese) [B, 2 D]."""
        if self.pair == "joint":
            return self.encoder.pooled(left_BLV, right_BLV, t_r_B, space, self.pool)
        windows_NLV = torch.cat((left_BLV, right_BLV))
        return compare(*self.encoder.embed(windows_NLV, t_r_B.repeat(2), space, self.pool).chunk(2))


def mean_of_volumes(x_BTD: Tensor, length_left: int) -> Tensor:
    """Return the mean over the tokens of volumes, [B, D]: all but CLS and SEP."""
    left, right = x_BTD[:, 1 : length_left + 1], x_BTD[:, length_left + 2 :]
    return torch.cat((left, right), dim=1).mean(dim=1)


def compare(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """Return |a - b| and a * b, [B, 2 D]: the order of the two does not matter."""
    return torch.cat(((a_BD - b_BD).abs(), a_BD * b_BD), dim=1)


def in_space(encoder: Encoder, name: str, n_features: int, seed: int) -> Encoder:
    """Return an encoder that reads one feature space alone: its own, or a new one by a drawn projection.

    Parameters
    ----------
    encoder : Encoder
        Keeps its weights; the new one has copies.
    name : str
        Of the space.
    n_features : int
        V of the space.
    seed : int
        Of the projection, where the encoder has none of that name.

    Raises
    ------
    UserError
        The space is new, and the encoder takes volumes as they are, without a projection (preset paper).
    """
    old = encoder.embedding
    if name not in encoder.config.spaces and not isinstance(old, ProjectedEmbedding):
        raise UserError(
            f"preset {encoder.config.preset} has no projection, so it reads no other feature space than its "
            "own; pre-train with a preset that has one (tiny, base, ...)"
        )
    alone = build(dataclasses.replace(encoder.config, spaces={name: n_features}), seed).encoder
    weights = encoder.state_dict()
    if isinstance(old, ProjectedEmbedding):
        # Of the projections of all spaces, the rows of this one; or those just drawn.
        new = alone.embedding.state_dict()
        known = name in old.rows
        place = list(old.rows).index(name) if known else 0
        weights["embedding.weight"] = old.weight.detach()[old.rows[name]] if known else new["weight"]
        weights["embedding.bias"] = old.bias.detach()[place : place + 1] if known else new["bias"]
    alone.load_state_dict(weights)
    return alone


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def build(config: EncoderConfig, seed: int, pair: PairWay = "joint", pool: Pool = "cls") -> PairClassifier:
    """Build an encoder and its head with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PairClassifier(Encoder(config), pair=pair, pool=pool)
