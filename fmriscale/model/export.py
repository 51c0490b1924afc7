"""The end product: `encoder/` = weights + what they mean, loadable with torch and safetensors alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write
from fmriscale.model.encoder import Encoder, EncoderConfig

FORMAT = 1


def save_encoder(folder: Path, encoder: Encoder, meta: dict[str, Any]) -> None:
    """Write `model.safetensors` (float32) and, last, `config.json`.

    Parameters
    ----------
    folder : Path
        Made where it does not exist; an encoder that is there is replaced.
    encoder : Encoder
        Whole weights (not partitioned by ZeRO-3).
    meta : dict
        What the weights mean: feature_spaces, pairs, t_r, train_runs, corpus_fingerprint,
        config_hash, step, fmriscale. Plain JSON values.
    """
    weights = {k: v.detach().float().cpu().contiguous() for k, v in encoder.state_dict().items()}
    data = save(weights)
    config = {
        "format": FORMAT,
        "encoder": encoder.config.to_dict(),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "meta": meta,
    }
    (folder / "config.json").unlink(missing_ok=True)
    atomic_write(folder / "model.safetensors", data)
    atomic_write(folder / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the whole `config.json` of an encoder folder.

    Raises
    ------
    UserError
        The folder holds no encoder, or one of a newer format.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no config.json, so no encoder; give the encoder/ folder of a finished run"
        ) from error
    except ValueError as error:
        raise DamageError(f"{path}: not JSON ({error}); export the encoder again") from error
    if config.get("format") != FORMAT:
        raise UserError(f"{path}: format {config.get('format')}, this fmriscale reads {FORMAT}")
    return config


def load_encoder(folder: Path) -> tuple[Encoder, dict[str, Any]]:
    """Read an encoder back, in evaluation mode.

    Parameters
    ----------
    folder : Path
        As written by `save_encoder`.

    Returns
    -------
    tuple
        The encoder and the meta data it was saved with.

    Raises
    ------
    UserError, DamageError
        No encoder there; or weights that are not those that config.json tells of.
    """
    folder = Path(folder)
    config = read_meta(folder)
    path = folder / "model.safetensors"
    if not path.exists():
        raise DamageError(f"{path} is missing though config.json is there; export the encoder again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != config["weights_sha256"]:
        raise DamageError(f"{path} is not the file that config.json tells of; export the encoder again")
    encoder = Encoder(EncoderConfig(**config["encoder"]))
    encoder.load_state_dict(load(data))
    encoder.meta = config["meta"]
    return encoder.eval(), encoder.meta
