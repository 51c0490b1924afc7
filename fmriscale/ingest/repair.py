"""`fmriscale verify CORPUS`: name every damage; `--repair` builds the damaged shards again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import EXIT_DAMAGE, EXIT_OK, UserError
from fmriscale.common.files import expand, fsync_folder, writing_to
from fmriscale.common.quarantine import Rejection
from fmriscale.common.workers import available_cores, map_in_order
from fmriscale.config import CorpusConfig
from fmriscale.config.recipe import CommandLine, parse
from fmriscale.corpus.building import FolderLock
from fmriscale.corpus.manifest import RECIPE, require_corpus
from fmriscale.corpus.servers import is_url
from fmriscale.corpus.verify import MANIFEST, Damage, check_manifest, check_shard
from fmriscale.corpus.writer import EncodedRun, ShardWriter
from fmriscale.ingest.plan import make_plan
from fmriscale.ingest.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

N_SHOWN = 40
"""Damages that are listed one by one."""


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 4 where there is damage that was not repaired."""
    parser = CommandLine("fmriscale verify", description="Hash and read every byte of a corpus.")
    parser.add_argument("corpus", metavar="CORPUS", help="the folder that fmriscale-shard wrote")
    parser.add_argument("--repair", action="store_true", help="build damaged shards again from their sources")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes; 0 = one per available core"
    )
    given = parser.parse_args(args)
    if given.jobs < 0:
        raise UserError(f"--jobs is {given.jobs}; it must be 0 or more")
    if is_url(given.corpus):
        raise UserError(
            f"{given.corpus}: lies on a server; verify the folder that was uploaded (what training fetches "
            "is checked as it comes)"
        )
    folder, jobs = expand(given.corpus), given.jobs or available_cores()
    require_corpus(folder)
    manifest, rows, damages = check_manifest(folder)
    by_shard = check_shards(folder, manifest["shards"], rows, jobs)
    damages += [damage for found in by_shard.values() for damage in found]
    _show(damages)
    broken = [s for s in manifest["shards"] if by_shard[s["path"]]]
    if given.repair and broken:
        mended = {s["path"] for s in broken if _mend(folder, manifest, s, rows, jobs)}
        damages = [damage for damage in damages if damage.file not in mended]
    size = sum(s["bytes"] for s in manifest["shards"]) / 2**20
    about = f"{len(rows)} runs in {len(manifest['shards'])} shards, {size:.1f} MiB"
    print(f"{about}: " + (_what_next(folder, manifest, damages) if damages else "no damage"))
    return EXIT_DAMAGE if damages else EXIT_OK


def _show(damages: list[Damage]) -> None:
    """Print every damage, or the first of very many."""
    for damage in damages[:N_SHOWN]:
        print(damage)
    if len(damages) > N_SHOWN:
        print(f"... and {len(damages) - N_SHOWN} more")


def _what_next(folder: Path, manifest: dict[str, Any], damages: list[Damage]) -> str:
    """Count damaged files and say what mends them."""
    files = {damage.file for damage in damages}
    lines = [f"damage in {len(files)} {'file' if len(files) == 1 else 'files'}"]
    if files & {shard["path"] for shard in manifest["shards"]}:
        lines.append("--repair builds damaged shards again")
    if files & set(MANIFEST):
        command = f"fmriscale-shard --config {folder / RECIPE} --out {folder}"
        lines.append(f"{command} writes the manifest again, and builds only what is missing")
    return "; ".join(lines)


def _mend(
    folder: Path, manifest: dict[str, Any], summary: dict[str, Any], rows: pd.DataFrame, jobs: int
) -> bool:
    """Repair a shard if that can be done; say what came of it."""
    name = summary["path"]
    try:
        repair_shard(folder, manifest, summary, rows, jobs)
    except UserError as error:
        print(f"{name}: not repaired: {error}; its bytes were left alone")
        return False
    left = check_shards(folder, [summary], rows, jobs=1)[name]
    print(f"{name}: repaired" if not left else f"{name}: still damaged: {left[0]}")
    return not left


def check_shards(
    folder: Path, shards: list[dict[str, Any]], rows: pd.DataFrame, jobs: int
) -> dict[str, list[Damage]]:
    """Return what is wrong with each shard, by its path."""
    lines = {str(shard): group.to_dict("records") for shard, group in rows.groupby("shard")}
    work = [(folder, summary, lines.get(summary["path"], [])) for summary in shards]
    found = {}
    with Progress(len(work), "shards") as progress:
        results = map_in_order(check_shard, work, max(1, min(jobs, len(work))))
        for summary, damages in zip(shards, results, strict=True):
            found[summary["path"]] = damages
            progress.update(1)
    return found


def repair_shard(
    folder: Path, manifest: dict[str, Any], summary: dict[str, Any], rows: pd.DataFrame, jobs: int
) -> None:
    """Build one shard again from its sources, and put it in place only if its bytes are those of old."""
    from fmriscale.ingest.run import process_run

    name = summary["path"]
    sources = _sources(folder, name.partition("/")[0])
    mine = rows[rows.shard == name]
    keys = list(mine.key.iloc[mine.offset.astype(int).argsort()])
    gone = [key for key in keys if key not in sources]
    if gone:
        raise UserError(f"the source of {gone[0]} is gone ({len(gone)} of {len(keys)} runs)")
    with writing_to(folder), FolderLock(folder) as lock:
        lock.claim_all()
        with ShardWriter(folder / ".build" / f"{Path(name).stem}.repair.tar", name) as writer:
            for result in map_in_order(process_run, [sources[key] for key in keys], min(jobs, len(keys))):
                if not isinstance(result, EncodedRun):
                    why = (
                        f"{result.reason}: {result.detail}"
                        if isinstance(result, Rejection)
                        else "its process died"
                    )
                    raise UserError(f"a run cannot be built any more: {why}")
                writer.add(result)
            again = writer.commit()
        if again is None or again["sha256"] != summary["sha256"]:
            writer.path.unlink(missing_ok=True)
            raise UserError(f"{_changed(manifest)}; shard the corpus again")
        writer.path.replace(folder / name)
        fsync_folder((folder / name).parent)


def _sources(folder: Path, dataset: str) -> dict[str, tuple]:
    """Return the runs of a data set and their settings by key, from the recipe kept in the corpus."""
    path = folder / RECIPE
    if not path.is_file():
        raise UserError(f"{path} is gone, the recipe that the corpus was made with")
    config = parse(CorpusConfig, ["--config", str(path), "--out", str(folder)], prog="fmriscale verify")
    datasets = [d for d in config.datasets if d.name == dataset]
    if not datasets:
        raise UserError(f"{path}: no data set '{dataset}'")
    config = CorpusConfig(datasets=datasets, out=config.out)
    return {run.key: (run, shard.dataset) for shard in make_plan(config)[0] for run in shard.runs}


def _changed(manifest: dict[str, Any]) -> str:
    """Say why other bytes came out."""
    from fmriscale.ingest.fingerprint import software

    then, now = manifest.get("software", {}), software()
    changes = [f"{k} {then.get(k)}, now {v}" for k, v in now.items() if then.get(k) != v]
    if changes:
        return f"built with {'; '.join(changes)}: other bytes come out"
    return "its sources have changed since: other bytes come out"
