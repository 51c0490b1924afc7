"""The files of an encoder/ folder, weights and what they mean; torch and safetensors read them alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import atomic_write
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.common.trust import parse_json

FORMAT = 1
AGAIN = "export the encoder again"


def write_folder(folder: Path, weights: dict[str, Tensor], encoder: dict[str, Any], meta: dict) -> None:
    """Write `model.safetensors` (float32) and, last, `config.json`; files that are there are replaced."""
    data, sha256 = float32_bytes(weights)
    config = {"format": FORMAT, "encoder": encoder, "weights_sha256": sha256, "meta": meta}
    (folder / "config.json").unlink(missing_ok=True)
    atomic_write(folder / "model.safetensors", data)
    atomic_write(folder / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the whole `config.json` of an encoder folder."""
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text())
    except FileNotFoundError as error:
        hint = did_you_mean_path(folder) or "; give the encoder/ folder of a finished run"
        raise UserError(f"{folder}: no config.json, so no encoder{hint}") from error
    except ValueError as error:
        raise DamageError(f"{path}: not JSON ({error}); {AGAIN}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found}, this fmriscale reads {FORMAT}")
    for name, kind in (("encoder", dict), ("meta", dict), ("weights_sha256", str)):
        if not isinstance(config.get(name), kind):
            raise DamageError(f"{path}: its {name} is not what fmriscale writes; {AGAIN}")
    return config


def float32_bytes(weights: dict[str, Tensor]) -> tuple[bytes, str]:
    """Return weights as the bytes of a safetensors file, float32, and their sha256."""
    data = save({name: w.detach().float().cpu().contiguous() for name, w in weights.items()})
    return data, hashlib.sha256(data).hexdigest()


def read_weights(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """Read a safetensors file and check its sha256."""
    if not path.exists():
        raise DamageError(f"{path} is missing though config.json is there; {remedy}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(f"{path} is not the file that config.json names; {remedy}")
    try:
        return load(data)
    except Exception as error:  # its library has exceptions of its own
        raise DamageError(f"{path} is no safetensors file ({type(error).__name__}); {remedy}") from error
