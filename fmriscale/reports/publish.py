"""`fmriscale publish RUN`: an encoder with a model card, as a folder for strangers or on the Hub."""

import json
from pathlib import Path
from typing import Any

from fmriscale.common.errors import EXIT_OK, DamageError, UserError
from fmriscale.common.files import atomic_write, expand, sha256_file, writing_to
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.common.trust import parse_json
from fmriscale.config.command_line import CommandLine
from fmriscale.corpus.manifest import hashed_key

PRIVATE = ("out", "tracking", "data.corpus", "data.cache", "data.holdout_runs", "train.nvme_path")
"""Settings of a recipe that name machines, folders or people: a published config.json does without them."""


def main(args: list[str] | None = None) -> int:
    """Write the folder, upload it if asked to, and say where it is and what its licence is."""
    given = parser_of_verb().parse_args(args)
    encoder = find_encoder(expand(given.run))
    folder = expand(given.out) if given.out else encoder.parent / "published"
    check_folder(folder, encoder)
    # Imported here: torch is slow to import.
    from fmriscale.model import hub
    from fmriscale.reports.card import card
    from fmriscale.reports.licences import licence_of

    if given.to:
        hub.check_address(given.to)
    results = [read_summary(expand(path)) for path in given.results]
    config = publishable(read_encoder(encoder), given.keep_run_keys)
    licence = licence_of(config["meta"]["datasets"], given.licence)
    config["meta"]["licence"] = {**licence.fields, "warnings": licence.warnings}
    name = given.to or folder.name
    text = card(name, config, licence, held_out(encoder, config["meta"].get("step")), results)
    with writing_to(folder):
        write_folder(folder, encoder, config, text)
    print(f"{folder}: config.json, model.safetensors, README.md")
    page = hub.upload(folder, given.to, given.private) if given.to else ""
    told = licence.fields.get("license_name") or licence.fields["license"]
    print(f"licence: {'; '.join([told, *licence.warnings])}")
    if page:
        print(f"{given.to}: {page}")
    return EXIT_OK


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    parser = CommandLine(
        "fmriscale publish", description="Weights that strangers can use, with a model card."
    )
    parser.add_argument("run", metavar="RUN", help="`out` of a pre-training, or one of its encoder folders")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write (published/ beside the encoder)")
    parser.add_argument("--to", metavar="hf://ORG/NAME", help="upload it to this repository of the Hub, too")
    parser.add_argument("--private", action="store_true", help="make that repository a private one")
    parser.add_argument(
        "--licence", metavar="NAME", help="licence of the weights (what the data sets' allow)"
    )
    results = "summary.json of studies and probes for the card"
    parser.add_argument("--results", metavar="FILE", nargs="+", default=[], help=results)
    keys = "name training runs by key, not by hash: keys may identify people"
    parser.add_argument("--keep_run_keys", action="store_true", help=keys)
    return parser


def find_encoder(run: Path) -> Path:
    """Return the encoder folder of a run (its last step's), or the folder itself where it is one."""
    for folder in (run / "encoder", run):
        if (folder / "model.safetensors").exists():
            return folder
    hint = did_you_mean_path(run) or "; give `out` of a pre-training that is finished"
    raise UserError(f"{run}: no encoder/ with model.safetensors{hint}")


def check_folder(folder: Path, encoder: Path) -> None:
    """Refuse to write over anything but what was published before."""
    ours = {"config.json", "model.safetensors", "README.md", ".gitattributes", ".git"}
    if folder.resolve() == encoder.resolve() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: is not free; choose another --out")
    if folder.is_dir() and (others := sorted(p.name for p in folder.iterdir() if p.name not in ours)):
        raise UserError(f"{folder}: holds {', '.join(others[:3])}; give --out an empty folder")


def read_encoder(encoder: Path) -> dict[str, Any]:
    """Read an encoder's config.json and check its weights; older ones get the origins of their data."""
    from fmriscale.corpus.reader import Corpus
    from fmriscale.model.export import read_meta
    from fmriscale.training.origins import origins

    config = read_meta(encoder)
    if sha256_file(encoder / "model.safetensors") != config["weights_sha256"]:
        raise DamageError(
            f"{encoder / 'model.safetensors'} is not the file that config.json names; export it again"
        )
    meta = config["meta"]
    if "datasets" not in meta:  # exported before they were kept
        try:
            corpus = Corpus.open(meta.get("config", {}).get("data", {}).get("corpus", ""))
            meta["datasets"] = origins(corpus, meta.get("train_runs", []))
        except UserError:
            meta["datasets"] = {}
    return config


def publishable(config: dict[str, Any], keep_run_keys: bool) -> dict[str, Any]:
    """Return config.json without what names places or people; keys of runs become hashes.

    A hash lets a study refuse test runs that the encoder has seen, as the key does. Who has the same data
    finds their runs in it; who has not reads nothing, as long as keys cannot be guessed. `sub-01` can.
    """
    meta = {name: value for name, value in config["meta"].items() if name != "head"}
    keys = meta.get("train_runs", [])
    meta["train_runs"] = keys if keep_run_keys else sorted(map(hashed_key, keys))
    return {**config, "meta": {**meta, "config": _without_private(meta.get("config", {}))}}


def _without_private(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    return {
        name: _without_private(value, f"{above}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if above + name not in PRIVATE
    }


def held_out(encoder: Path, step: int | None) -> dict[str, Any] | None:
    """Return the last evaluation of a run up to the encoder's step; None where there is none."""
    try:
        lines = (encoder.parent / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return None
    found = None
    for text in lines:
        try:
            line = parse_json(text)
        except ValueError:  # a crash has cut the line off
            continue
        if line.get("event") == "eval" and line["step"] <= (step or 0):
            found = line
    return found


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary.json of a study or a probe."""
    try:
        summary = parse_json(path.read_text())
    except OSError as error:
        hint = did_you_mean_path(path) or "; give summary.json of a finished study"
        raise UserError(f"--results {path}: {error.strerror}{hint}") from error
    except ValueError as error:
        raise UserError(f"--results {path}: not JSON ({error}); give summary.json of a study") from error
    if not isinstance(summary, dict) or "verdict" not in summary:
        raise UserError(f"--results {path}: no verdict in it; give summary.json of a finished study")
    return summary


def write_folder(folder: Path, encoder: Path, config: dict[str, Any], card: str) -> None:
    """Write weights and card, and config.json last; a folder that is there is replaced."""
    (folder / "config.json").unlink(missing_ok=True)
    atomic_write(folder / "model.safetensors", (encoder / "model.safetensors").read_bytes())
    atomic_write(folder / "README.md", card)
    atomic_write(folder / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
