"""The results of jobs: what they depend on, where they are kept, and which of them are missing."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

from fmriscale.common.files import atomic_write, expand
from fmriscale.common.trust import parse_json
from fmriscale.common.version import __version__
from fmriscale.config import StudyConfig
from fmriscale.config.recipe import to_dict
from fmriscale.study.connectivity import has_connectivity
from fmriscale.study.controls import origin_of
from fmriscale.study.data import Study
from fmriscale.study.jobs import Baselines, Cell, Final, Job, arms, encoder_folder, final_cell, jobs, sizes

WITHOUT_EFFECT = ("out", "corpus", "jobs", "tracking", "allow_seen_runs", "keep_model")
"""Settings that change no result: places, and how the work is done."""
OF_THE_JOB = ("pretrained", "controls", "seeds", "train_sizes")
"""Settings of which a job has its own share."""
MOST_NAMED = 8
"""Missing results that are named."""


@dataclass(frozen=True)
class Results:
    """Files of a study's folder; a result is valid as long as its hash is that of its job."""

    out: Path
    hashes: Mapping[Any, str]
    """By job, which has the name of its result and of its file."""

    @classmethod
    def of(cls, study: Study) -> "Results":
        """Hash every job of a study."""
        config = study.config
        return cls(expand(config.out), {job: job_hash(study, job) for job in jobs(config)})

    def load(self, job: Any) -> dict[str, Any] | None:
        """Return the result of a job; None where there is none, or one of other settings."""
        try:
            result = parse_json((self.out / job.file).read_text())
            return result if result["hash"] == self.hashes[job] else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, job: Any, content: dict[str, Any]) -> dict[str, Any]:
        """Write and return the result of a job."""
        result = {"hash": self.hashes[job], **content}
        atomic_write(self.out / job.file, json.dumps(result, indent=1) + "\n")
        self._reason_file(job).unlink(missing_ok=True)
        return result

    def save_failure(self, job: Any, reason: str) -> None:
        """Keep the reason why a job has no result, so that no later step takes it for one that never was."""
        atomic_write(self._reason_file(job), reason + "\n")

    def _reason_file(self, job: Any) -> Path:
        return self.out / "failed" / f"{job.name}.txt"

    def describe_missing(self, wanted: Iterable[Any]) -> str | None:
        """Name the jobs without a result, each with the reason if known; None where none is missing."""
        missing = [job for job in wanted if self.load(job) is None]
        if not missing:
            return None
        failed, unknown = [], []
        for job in missing:
            file = self._reason_file(job)
            if file.exists():
                failed.append(f"{job.name} ({file.read_text().strip()})")
            else:
                unknown.append(job.name)
        names = failed + unknown
        shown = "; ".join(names[:MOST_NAMED])
        if len(names) > MOST_NAMED:
            shown += f"; and {len(names) - MOST_NAMED} more"
        return f"{len(missing)} of {len(self.hashes)} results are missing, so there is no summary: {shown}"


# ---------------------------------------------------------------- what a result depends on


def digest(content: Any) -> str:
    """Return the sha256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def settings_of_results(config: StudyConfig) -> dict[str, Any]:
    """Return the settings that results depend on."""
    return {name: value for name, value in to_dict(config).items() if name not in WITHOUT_EFFECT}


def recipe_hash(config: StudyConfig) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of the settings that results depend on."""
    return digest(settings_of_results(config))[:12]


def job_hash(study: Study, job: Job) -> str:
    """Return a hash of everything that the result of a job depends on."""
    config = study.config
    settings = {k: v for k, v in settings_of_results(config).items() if k not in OF_THE_JOB}
    match job:
        case Cell():
            own = [asdict(job), start_of_cell(study, job)]
        case Final():
            cell = final_cell(config)
            own = [job.name, asdict(cell), start_of_cell(study, cell)]
        case Baselines():
            del settings["model"], settings["train"]
            own = [asdict(job), sizes(config)[-1], sklearn.__version__]
            own += ["connectivity"] if has_connectivity(study.windows.bold_NLV) else []
    versions = [__version__, torch.__version__, np.__version__]
    return digest([settings, own, study.fingerprint, versions])


def start_of_cell(study: Study, cell: Cell) -> list[Any]:
    """Return what the encoder that a cell starts from depends on; nothing where nothing is pre-trained."""
    folder = encoder_folder(study.config, cell.arm, cell.fold)
    return [] if folder is None else start_of(study.metas[folder], fresh=cell.arm == "fresh")


def start_of(meta: dict[str, Any], *, fresh: bool) -> list[Any]:
    """Return what a start from an encoder depends on: architecture, spaces, weights."""
    return [meta["encoder"], meta["meta"].get("feature_spaces"), None if fresh else meta["weights_sha256"]]


def study_hash(study: Study, results: Results) -> str:
    """Return a hash of everything that a whole study depends on, and of where it is logged."""
    return digest([to_dict(study.config.tracking), list(results.hashes.values())])


def provenance_of(study: Study) -> dict[str, Any]:
    """Return what a study was made from and with."""
    encoders = {arm: encoder_origins(study, arm) for arm in arms(study.config) if arm != "fresh"}
    return provenance(study, recipe_hash(study.config), encoders)


def provenance(work: Any, recipe: str, encoders: dict[str, Any]) -> dict[str, Any]:
    """Return software, recipe, corpus and encoders of a study or probe; no host, no user."""
    names = ("fmriscale", "torch", "numpy", "scipy", "scikit-learn", "nilearn", "mlflow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "recipe": recipe,
        "corpus": {"path": work.config.corpus, "fingerprint": work.fingerprint},
        "encoders": encoders,
    }


def encoder_origins(study: Study, arm: str) -> dict[str, dict[str, Any]]:
    """Return folder, weights and origin of the encoder that an arm starts from, by fold if folds differ."""
    given = study.config.controls.get(arm, study.config.pretrained) or ""
    by_fold = "{fold}" in given
    origins = {}
    for fold in range(study.config.n_folds if by_fold else 1):
        content = study.metas[encoder_folder(study.config, arm, fold) or Path()]
        origin = encoder_origin(given.replace("{fold}", str(fold)), content)
        origin |= origin_of(content["meta"].get("config", {}))
        origins[f"fold {fold}" if by_fold else "every fold"] = origin
    return origins


def encoder_origin(folder: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return where an encoder is, and what its config.json says of its making."""
    made = {key: content["meta"].get(key) for key in ("step", "corpus_fingerprint", "config_hash")}
    return {"folder": folder, "weights_sha256": content["weights_sha256"], **made}
