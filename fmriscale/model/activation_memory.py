"""Bytes that a step keeps of a model's forward pass, until its backward pass has used them."""

from dataclasses import dataclass

from fmriscale.model.presets import EncoderConfig

BEYOND = {"relu": (7, 1), "gelu": (4, 3)}
"""Widths of a token held beyond what is freed meanwhile, by activation: in a backward pass; more in one that
computes a block again. Seen in torch's memory profile."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of activations of one forward and backward pass.

    `saved` are kept by the forward pass; `momentary` are held beside these when most is held: gradients of a
    block and, where its activations are computed again, these.
    """

    saved: int
    momentary: int

    @property
    def total(self) -> int:
        """Most that is held at a time."""
        return self.saved + self.momentary


def activation_bytes(
    config: EncoderConfig,
    n_pairs: int,
    *,
    n_features: int,
    length: int,
    itemsize: int,
    mask_itemsize: int = 1,
    attention_itemsize: int = 0,
    recompute: bool = False,
    alone: bool = False,
    every_token: bool = False,
) -> Activations:
    """Count the activations of one micro-batch.

    Every tensor that autograd keeps is counted by hand: inputs of linear layers, norms and
    activations, query, key, value and output of the fused attention (no attention matrix), masks of
    dropout. The last block keeps little but its keys and values, because it computes CLS alone.
    attention_itemsize: of what attention computes with, where that is another type (see `attend`).
    """
    d, pre = config.d_model, config.norm == "pre"
    n_read, n_volumes = (2 * n_pairs, length) if alone else (n_pairs, 2 * length)
    if config.positions == "learned":
        n_volumes = 2 * length  # a sequence that goes alone takes both places
    tokens = n_volumes + 2
    rotated = d if config.positions == "rotary" else 0
    masks = mask_itemsize * d if config.dropout > 0 else 0
    hidden = config.d_ff * (2 if config.activation == "gelu" else 1)  # ReLU needs its result alone
    others = 4 * itemsize + 4 * config.n_heads  # statistics of two norms, and of attention's softmax

    momentary, extra = BEYOND[config.activation]

    # Of each token: what keys and values need; and the rest, which the last block has of CLS alone.
    source = ((4 if pre else 3) * d + rotated) * itemsize
    rest = ((4 if pre else 5) * d + rotated + hidden) * itemsize + 2 * masks + others
    block, last = tokens * (source + rest), tokens * source + rest
    if attention_itemsize and attention_itemsize != itemsize:
        # Copies of keys and values, of query and answer: what they were copied from is freed.
        copies = 2 * d * attention_itemsize - (2 * d + rotated) * itemsize
        more = 2 * d * attention_itemsize - (d + rotated) * itemsize
        block += tokens * (copies + more)
        last += tokens * copies + more if rotated else 0
    if every_token:
        last = block
    elif not rotated:  # the last block makes neither keys nor values, but two vectors a head for CLS
        last += (2 * config.n_heads - 2 * tokens) * d * itemsize
    embedding = tokens * masks
    if rotated:
        waves = 4 * d // config.n_heads
        embedding += n_volumes * n_features * itemsize + tokens * waves
    kept = tokens * d * itemsize if recompute else block
    # A block's turn to be computed again comes when the last block's activations are gone already.
    recomputed = block - kept + tokens * extra * d * itemsize if recompute and config.n_layers > 1 else 0
    end = (3 + (tokens if every_token and pre else 0)) * d * itemsize
    return Activations(
        saved=n_read * (embedding + (config.n_layers - 1) * kept + last + end),
        momentary=n_read * (tokens * momentary * d * itemsize + max(0, recomputed - last)),
    )
