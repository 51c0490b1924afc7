"""The stacked encoder: from the tokens [CLS, left, SEP, right] to the last vector of CLS.

Shapes: B pairs, L volumes a sequence, V features, T = 2 L + 2 tokens, D width; S = T, or 1 where CLS alone is
computed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmriscale.common.errors import UserError
from fmriscale.common.trust import understood
from fmriscale.model import export
from fmriscale.model.attention import Attention, rotary_waves
from fmriscale.model.dropout import Dropout
from fmriscale.model.embedding import ProjectedEmbedding, RawEmbedding, token_times
from fmriscale.model.pooling import pool_tokens
from fmriscale.model.presets import EncoderConfig, Pool
from fmriscale.model.remote import local_folder


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
        # No gradient needs the result of a norm: it may be overwritten.
        self.dropout = Dropout(config.dropout, inplace=not self.pre)
        self.activate = F.relu if config.activation == "relu" else F.gelu
        if config.start == "identity":  # the residual alone is left
            for last in (self.attention.out, self.down):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(
        self, x_BTD: Tensor, waves: tuple[Tensor, Tensor] | None = None, cls_only: bool = False
    ) -> Tensor:
        """Return tokens [B, T, D], or [B, 1, D] with `cls_only`: the same CLS for less work."""
        # A slice of all tokens would cost a copy in the backward pass.
        x_BSD = x_BTD[:, :1] if cls_only else x_BTD
        if self.pre:
            y_BSD = self.attention(self.norm_attention(x_BTD), waves, cls_only)
            x_BSD = x_BSD + self.dropout(y_BSD)
            return x_BSD + self.dropout(self._feed(self.norm_feed(x_BSD)))
        # Dropout follows the norm, not the residual branch: so it was published.
        y_BSD = self.attention(x_BTD, waves, cls_only)
        x_BSD = self.dropout(self.norm_attention(x_BSD + y_BSD))
        return self.dropout(self.norm_feed(x_BSD + self._feed(x_BSD)))

    def _feed(self, x_BSD: Tensor) -> Tensor:
        return self.down(self.activate(self.up(x_BSD)))


class Encoder(nn.Module):
    """Encode two sequences of volumes as one vector.

    The input is [CLS, left, SEP, right], one token a volume. Preset paper is the published model [1]_: no
    projection, learned positions, norm after the residual sum. The other presets have a linear projection for
    each feature space, rotary positions in seconds and norm before each sub-layer.

    Parameters
    ----------
    config : EncoderConfig
        Width, blocks, heads and feature spaces; `resolve_encoder` makes it from a preset.

    Attributes
    ----------
    config : EncoderConfig
        As given.
    recompute : bool
        Keep only the input of each block but the last and compute the rest again in the backward pass.
        The last block's turn comes at once: to forget it would save nothing.
    meta : dict
        What it was saved with: feature_spaces, pairs, t_r, train_runs, ...; empty before it is.

    References
    ----------
    .. [1] Paulsen and Casey (2023), arXiv:2305.13226.

    Examples
    --------
    >>> encoder = Encoder.from_pretrained("runs/base/encoder")  # doctest: +SKIP
    >>> encoder = Encoder.from_pretrained("hf://org/name@v1")  # doctest: +SKIP
    >>> vectors_BD = encoder.embed(windows_BLV, t_r_B)  # doctest: +SKIP
    """

    recompute = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.meta: dict[str, Any] = {}
        if config.positions == "learned":
            n_features = next(iter(config.spaces.values()))
            self.embedding = RawEmbedding(n_features, config.length, config.d_model)
        else:
            self.embedding = ProjectedEmbedding(config.spaces, config.d_model)
        self.dropout_input = Dropout(config.input_dropout)
        self.dropout = Dropout(config.dropout, inplace=True)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Encoder":
        """Read the encoder/ folder of a pre-training run, the model/ folder of a study, or published weights.

        Parameters
        ----------
        folder : str or Path
            A folder as written by `save_pretrained` or `fmriscale publish`, or where one lies: hf://org/name
            (or hf://org/name@revision), https://..., s3://.... Those are downloaded once and cached.

        Returns
        -------
        Encoder
            In evaluation mode, on the CPU, float32.

        Raises
        ------
        UserError
            The folder holds no encoder, or one of a newer format; or its server cannot be reached.
        DamageError
            The weights are not those that config.json names.
        """
        folder = local_folder(folder)
        content = export.read_meta(folder)
        path, sha256 = folder / "model.safetensors", content["weights_sha256"]
        weights = export.read_weights(path, sha256, export.AGAIN)
        with understood(folder / "config.json", export.AGAIN):
            encoder = cls(_config_of(content["encoder"], weights))
            encoder.load_state_dict(weights)
        encoder.meta = content["meta"]
        return encoder.eval()

    def save_pretrained(self, folder: Path, meta: dict[str, Any]) -> None:
        """Write the encoder as a folder; an encoder that is there is replaced.

        Parameters
        ----------
        folder : Path
            Made where it does not exist.
        meta : dict
            What the weights mean, as plain JSON values: feature_spaces, pairs, t_r (s), train_runs,
            corpus_fingerprint, config_hash, step, fmriscale.
        """
        export.write_folder(folder, self.state_dict(), self.config.to_dict(), meta)

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
        left_BLV, right_BLV : Tensor [B, L, V]
            Standardised volumes; any float dtype, converted to that of the weights.
        t_r_B : Tensor [B]
            Repetition time, s (rotary positions use it).
        space : str, optional
            Feature space of the volumes; may be left out where the encoder has only one.
        every_token : bool
            Return all tokens. The last block then computes all of them, not CLS alone.
        added_BTD : Tensor [B, T, D], optional
            Added to the tokens before the first block: marks of masked volumes.

        Returns
        -------
        Tensor
            CLS [B, D], or all tokens [B, T, D].

        Raises
        ------
        ValueError
            The space is unknown or missing, or L is another one than learned positions have.
        """
        x_BTD = self.embedding(self.dropout_input(left_BLV), self.dropout_input(right_BLV), space)
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
        """Encode pairs of sequences, each as one vector.

        Parameters
        ----------
        left_BLV, right_BLV : Tensor [B, L, V]
            Standardised volumes.
        t_r_B : Tensor [B]
            Repetition time, s.
        space : str, optional
            Feature space of the volumes; may be left out where the encoder has only one.
        pool : {"cls", "mean", "bins"}
            CLS; the mean over the tokens of volumes (not CLS and SEP); or the means in `N_BINS` bins of the
            time of all volumes, side by side.

        Returns
        -------
        Tensor
            Vectors [B, D]; of bins [B, N_BINS D].
        """
        x = self(left_BLV, right_BLV, t_r_B, space, every_token=pool != "cls")
        return x if pool == "cls" else pool_tokens(x, left_BLV.shape[1], pool)

    def embed(
        self, window_BLV: Tensor, t_r_B: Tensor, space: str | None = None, pool: Pool = "mean"
    ) -> Tensor:
        """Encode windows, each by itself.

        A window is left of a pair without right. Learned positions have one length alone: there the window is
        right as well. On Haxby 2001 it made no difference (linear probe on left-out runs, 8 categories, two
        encoders: .45-.51 either way). CLS gave .27-.33: NTP trains it for the relation of two sequences.

        Parameters
        ----------
        window_BLV : Tensor [B, L, V]
            Standardised volumes.
        t_r_B : Tensor [B]
            Repetition time, s.
        space : str, optional
            Feature space of the volumes; may be left out where the encoder has only one.
        pool : {"mean", "cls", "bins"}
            Mean over the tokens of volumes; CLS; or their means in `N_BINS` bins of time, side by side.

        Returns
        -------
        Tensor
            Vectors [B, D]; of bins [B, N_BINS D].
        """
        alone = self.config.positions == "rotary"
        right_BLV = window_BLV[:, :0] if alone else window_BLV
        return self.pooled(window_BLV, right_BLV, t_r_B, space, pool)


def _config_of(content: dict[str, Any], weights: dict[str, Tensor]) -> EncoderConfig:
    """Return what config.json says if these weights have it: alone it must not claim memory."""
    config = EncoderConfig(**content)
    if config.n_layers > len(weights):
        raise ValueError(f"{config.n_layers} layers, which the weights have not")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in Encoder(config).state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the weights have other names or shapes")
    return config


def build_encoder(config: EncoderConfig, seed: int) -> Encoder:
    """Build an encoder with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(config)


def in_space(encoder: Encoder, name: str, n_features: int, seed: int) -> Encoder:
    """Return a copy of an encoder that reads one feature space alone: its own, or a new one.

    The projection of a new space is drawn by the seed; preset paper has none, so it reads no new space.
    """
    old = encoder.embedding
    projected = isinstance(old, ProjectedEmbedding)
    if name not in encoder.config.spaces and not projected:
        raise UserError(
            f"preset {encoder.config.preset} has no projection, so it reads no other feature space than its "
            "own; pre-train with a preset that has one (tiny, base, ...)"
        )
    alone = build_encoder(dataclasses.replace(encoder.config, spaces={name: n_features}), seed)
    weights = encoder.state_dict()
    if projected:
        rows = old.rows_of(name) if name in old.rows else alone.embedding.state_dict()
        weights["embedding.weight"], weights["embedding.bias"] = rows["weight"], rows["bias"]
    alone.load_state_dict(weights)
    return alone


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, whole where ZeRO has partitioned them."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
