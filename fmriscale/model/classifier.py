"""Classify pairs: an encoder with a linear head, its files, and what it answers.

MLflow loads such a folder through `_load_pyfunc`, its contract for models of any library, without pickle.
Shapes: B pairs, L volumes a sequence, V features, D width, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmriscale.common.errors import DamageError
from fmriscale.common.files import atomic_write
from fmriscale.common.trust import understood
from fmriscale.model.encoder import Encoder
from fmriscale.model.export import float32_bytes, read_weights
from fmriscale.model.pooling import n_parts
from fmriscale.model.precision import joined
from fmriscale.model.presets import EncoderConfig, PairWay, Pool

HEAD = "head.safetensors"
"""Weights of the head, beside those of the encoder."""


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
    pool : {"cls", "mean", "bins"}
        What of the encoder's tokens the head sees.
    """

    def __init__(
        self, encoder: Encoder, n_classes: int = 2, pair: PairWay = "joint", pool: Pool = "cls"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pair: PairWay = pair
        self.pool: Pool = pool
        width = n_parts(pool) * encoder.config.d_model
        self.head = zero_head(width * (1 if pair == "joint" else 2), n_classes)

    def forward(self, left_BLV: Tensor, right_BLV: Tensor, t_r_B: Tensor, space: str | None = None) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(left_BLV, right_BLV, t_r_B, space))

    def features(
        self, left_BLV: Tensor, right_BLV: Tensor, t_r_B: Tensor, space: str | None = None
    ) -> Tensor:
        """Return what the head sees of each pair, [B, D] or (siamese) [B, 2 D]; D is that of a vector."""
        if self.pair == "joint":
            return self.encoder.pooled(left_BLV, right_BLV, t_r_B, space, self.pool)
        windows_NLV = joined(left_BLV, right_BLV)
        return compare(*self.encoder.embed(windows_NLV, t_r_B.repeat(2), space, self.pool).chunk(2))


def zero_head(n_features: int, n_classes: int) -> nn.Linear:
    """Return a linear map that starts at zero."""
    head = nn.Linear(n_features, n_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def compare(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """Return |a - b| and a * b, [B, 2 D]: the order of the two does not matter."""
    return torch.cat(((a_BD - b_BD).abs(), a_BD * b_BD), dim=1)


def build(config: EncoderConfig, seed: int, pair: PairWay = "joint", pool: Pool = "cls") -> PairClassifier:
    """Build an encoder and its head with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PairClassifier(Encoder(config), pair=pair, pool=pool)


def save_classifier(folder: Path, model: PairClassifier, meta: dict[str, Any]) -> None:
    """Write a classifier such that its encoder can be used alone (`Encoder.from_pretrained`)."""
    data, sha256 = float32_bytes(model.head.state_dict())
    head = {"pair": model.pair, "pool": model.pool, "n_classes": model.head.out_features, "sha256": sha256}
    atomic_write(folder / HEAD, data)
    model.encoder.save_pretrained(folder, {**meta, "head": head})


def load_classifier(folder: Path) -> PairClassifier:
    """Read a classifier back, in evaluation mode; its encoder has the meta data it was saved with."""
    encoder = Encoder.from_pretrained(folder)
    path, head = Path(folder) / HEAD, encoder.meta.get("head")
    if head is None or not path.exists():
        raise DamageError(f"{folder}: an encoder without a head; give the model/ folder of a finished study")
    remedy = "run the study again"
    with understood(Path(folder) / "config.json", remedy):
        weights = read_weights(path, head["sha256"], remedy)
        if len(weights["bias"]) != head["n_classes"]:
            raise ValueError(f"{head['n_classes']} classes, which the weights have not")
        model = PairClassifier(encoder, head["n_classes"], head["pair"], head["pool"])
        model.head.load_state_dict(weights)
    return model.eval()


class SameLabel:
    """The answers of a study's saved classifier, numpy in and out."""

    def __init__(self, folder: Path) -> None:
        self.model = load_classifier(folder)

    @torch.inference_mode()
    def predict(self, pairs: dict[str, np.ndarray], params: dict[str, Any] | None = None) -> np.ndarray:
        """Return the probability that windows left, right [B, L, V] share a label, float32 [B]; t_r in s."""
        left_BLV, right_BLV, t_r_B = (
            torch.as_tensor(np.asarray(pairs[name], np.float32)) for name in ("left", "right", "t_r")
        )
        logits_BC = self.model(left_BLV, right_BLV, t_r_B, self.model.encoder.meta["space"])
        return logits_BC.softmax(dim=1)[:, 1].numpy()


def _load_pyfunc(folder: str) -> SameLabel:
    """Load a classifier for MLflow."""
    return SameLabel(Path(folder))
