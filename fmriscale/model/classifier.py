"""A fine-tuned classifier of pairs as files: an encoder/ folder with its head beside it; and what it answers.

MLflow loads such a folder through `_load_pyfunc`, its contract for models of any library, without pickle.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from fmriscale.common.errors import DamageError
from fmriscale.common.files import atomic_write
from fmriscale.model.encoder import PairClassifier
from fmriscale.model.export import load_encoder, save_encoder

HEAD = "head.safetensors"
"""Weights of the head, beside those of the encoder."""


def save_classifier(folder: Path, model: PairClassifier, meta: dict[str, Any]) -> None:
    """Write a classifier such that its encoder can be used alone (`load_encoder`)."""
    data = save({k: v.detach().float().cpu().contiguous() for k, v in model.head.state_dict().items()})
    head = {
        "pair": model.pair,
        "pool": model.pool,
        "n_classes": model.head.out_features,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    atomic_write(folder / HEAD, data)
    save_encoder(folder, model.encoder, {**meta, "head": head})


def load_classifier(folder: Path) -> tuple[PairClassifier, dict[str, Any]]:
    """Read a classifier back, in evaluation mode, with the meta data it was saved with."""
    encoder, meta = load_encoder(folder)
    path, head = Path(folder) / HEAD, meta.get("head")
    if head is None or not path.exists():
        raise DamageError(f"{folder}: an encoder without a head; give the model/ folder of a finished study")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != head["sha256"]:
        raise DamageError(f"{path} is not the file that config.json tells of; run the study again")
    model = PairClassifier(encoder, head["n_classes"], head["pair"], head["pool"])
    model.head.load_state_dict(load(data))
    return model.eval(), meta


class SameLabel:
    """What a classifier of a study answers, numpy in and out.

    Parameters
    ----------
    folder : Path
        As written by `save_classifier`; meta names the feature space (`space`) it reads.
    """

    def __init__(self, folder: Path) -> None:
        self.model, self.meta = load_classifier(Path(folder))

    @torch.inference_mode()
    def predict(self, pairs: dict[str, np.ndarray], params: dict[str, Any] | None = None) -> np.ndarray:
        """Return the probability that the windows of each pair share a label, float32 [B]."""
        left_BLV, right_BLV, t_r_B = (
            torch.as_tensor(np.asarray(pairs[name], np.float32)) for name in ("left", "right", "t_r")
        )
        logits_BC = self.model(left_BLV, right_BLV, t_r_B, self.meta["space"])
        return logits_BC.softmax(dim=1)[:, 1].numpy()


def _load_pyfunc(folder: str) -> SameLabel:
    """Load a classifier for MLflow."""
    return SameLabel(Path(folder))
