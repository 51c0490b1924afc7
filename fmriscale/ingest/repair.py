"""`fmriscale verify CORPUS`: name every damage; `--repair` builds the damaged shards again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.console import counted
from fmriscale.common.errors import EXIT_DAMAGE, EXIT_OK, UserError
from fmriscale.common.files import expand, fsync_folder, writing_to
from fmriscale.common.quarantine import Rejection
from fmriscale.common.workers import available_cores, map_in_order
from fmriscale.config import CorpusConfig, DatasetConfig
from fmriscale.config.command_line import CommandLine
from fmriscale.config.recipe import parse
from fmriscale.corpus.building import FolderLock
from fmriscale.corpus.manifest import RECIPE, require_corpus
from fmriscale.corpus.servers import is_url
from fmriscale.corpus.verify import MANIFEST, Damage, check_manifest, check_shard
from fmriscale.corpus.writer import EncodedRun, ShardWriter
from fmriscale.ingest.plan import make_plan

if TYPE_CHECKING:
    import pandas as pd

    from fmriscale.ingest.find.sources import RunSource

N_SHOWN = 40  # Damages that are listed one by one


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    parser = CommandLine("fmriscale verify", description="Hash and read every byte of a corpus.")
    parser.add_argument("corpus", metavar="CORPUS", help="the folder that fmriscale-shard wrote")
    parser.add_argument("--repair", action="store_true", help="build damaged shards again from their sources")
    jobs = "processes; 0 = one per available core"
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help=jobs)
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 4 where there is damage that was not repaired."""
    flags = parser_of_verb().parse_args(args)
    if flags.jobs < 0:
        raise UserError(f"--jobs is {flags.jobs}; it must be 0 or more")
    if is_url(flags.corpus):
        raise UserError(f"{flags.corpus}: is on a server; verify the folder that was uploaded")
    folder, jobs = expand(flags.corpus), flags.jobs or available_cores()
    require_corpus(folder)
    manifest, rows, damages = check_manifest(folder)
    damages_of = check_shards(folder, manifest["shards"], rows, jobs)
    damages += [damage for shard in damages_of.values() for damage in shard]
    print("".join(f"{damage}\n" for damage in damages[:N_SHOWN]), end="")
    if len(damages) > N_SHOWN:
        print(f"... and {len(damages) - N_SHOWN} more")
    broken = [shard for shard in manifest["shards"] if damages_of[shard["path"]]]
    if flags.repair and broken:
        repaired = {shard["path"] for shard in broken if _repair(folder, manifest, shard, rows, jobs)}
        damages = [damage for damage in damages if damage.file not in repaired]
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 2**20
    checked = f"{len(rows)} runs in {len(manifest['shards'])} shards, {size:.1f} MiB"
    print(f"{checked}: " + (_summary(folder, manifest, damages) if damages else "no damage"))
    return EXIT_DAMAGE if damages else EXIT_OK


def _summary(folder: Path, manifest: dict[str, Any], damages: list[Damage]) -> str:
    """Count damaged files and name the commands that repair them."""
    files = {damage.file for damage in damages}
    lines = [f"damage in {len(files)} {'file' if len(files) == 1 else 'files'}"]
    if files & {shard["path"] for shard in manifest["shards"]}:
        lines.append("--repair builds damaged shards again")
    if files & set(MANIFEST):
        command = f"fmriscale-shard --config {folder / RECIPE} --out {folder}"
        lines.append(f"{command} writes the manifest again, and builds only what is missing")
    return "; ".join(lines)


def check_shards(
    folder: Path, shards: list[dict[str, Any]], rows: pd.DataFrame, jobs: int
) -> dict[str, list[Damage]]:
    """Return what is wrong with each shard, by its path."""
    lines = {str(shard): group.to_dict("records") for shard, group in rows.groupby("shard")}
    work = [(folder, shard, lines.get(shard["path"], [])) for shard in shards]
    results = counted(map_in_order(check_shard, work, max(1, min(jobs, len(work)))), len(work), "shards")
    return {shard["path"]: damages for shard, damages in zip(shards, results, strict=True)}


def _repair(
    folder: Path, manifest: dict[str, Any], shard: dict[str, Any], rows: pd.DataFrame, jobs: int
) -> bool:
    """Repair a shard if that can be done, and print the result."""
    name = shard["path"]
    try:
        repair_shard(folder, manifest, shard, rows, jobs)
    except UserError as error:
        print(f"{name}: not repaired: {error}; its bytes were left alone")
        return False
    damages = check_shards(folder, [shard], rows, jobs=1)[name]
    print(f"{name}: still damaged: {damages[0]}" if damages else f"{name}: repaired")
    return not damages


def repair_shard(
    folder: Path, manifest: dict[str, Any], shard: dict[str, Any], rows: pd.DataFrame, jobs: int
) -> None:
    """Build one shard again from its sources, and put it in place only if its bytes are the same."""
    from fmriscale.ingest.run import process_run

    name = shard["path"]
    sources = _sources(folder, name.partition("/")[0])
    own = rows[rows.shard == name]
    keys = list(own.key.iloc[own.offset.astype(int).argsort()])
    if missing := [key for key in keys if key not in sources]:
        raise UserError(f"the source of {missing[0]} is gone ({len(missing)} of {len(keys)} runs)")
    with writing_to(folder), FolderLock(folder) as lock:
        lock.claim_all()
        with ShardWriter(folder / ".build" / f"{Path(name).stem}.repair.tar", name) as writer:
            for result in map_in_order(process_run, [sources[key] for key in keys], min(jobs, len(keys))):
                if isinstance(result, Rejection):
                    raise UserError(f"a run cannot be built any more: {result.reason}: {result.detail}")
                if not isinstance(result, EncodedRun):
                    raise UserError("a run cannot be built any more: its process died")
                writer.add(result)
            rebuilt = writer.commit()
        if rebuilt is None or rebuilt["sha256"] != shard["sha256"]:
            writer.path.unlink(missing_ok=True)
            raise UserError(f"{_cause(manifest)}: other bytes come out; shard the corpus again")
        writer.path.replace(folder / name)
        fsync_folder((folder / name).parent)


def _sources(folder: Path, dataset: str) -> dict[str, tuple[RunSource, DatasetConfig]]:
    """Return the runs of a data set and their settings by key, from the recipe kept in the corpus."""
    path = folder / RECIPE
    if not path.is_file():
        raise UserError(f"{path} is gone, the recipe that the corpus was made with")
    config = parse(CorpusConfig, ["--config", str(path), "--out", str(folder)], prog="fmriscale verify")
    datasets = [d for d in config.datasets if d.name == dataset]
    if not datasets:
        raise UserError(f"{path}: no data set '{dataset}'")
    plan = make_plan(CorpusConfig(datasets=datasets, out=config.out))
    return {run.key: (run, shard.dataset) for shard in plan.shards for run in shard.runs}


def _cause(manifest: dict[str, Any]) -> str:
    """Say why other bytes came out."""
    from fmriscale.ingest.fingerprint import software

    before, now = manifest.get("software", {}), software()
    changes = [f"{name} {before.get(name)}, now {v}" for name, v in now.items() if before.get(name) != v]
    return f"built with {'; '.join(changes)}" if changes else "its sources have changed since"
