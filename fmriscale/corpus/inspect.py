"""The table of a corpus: what it holds, from its manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.errors import UserError
from fmriscale.corpus.manifest import read_table

if TYPE_CHECKING:
    import pandas as pd


def read_quarantine(folder: Path) -> pd.DataFrame:
    """Read quarantine.tsv."""
    try:
        return read_table(folder / "quarantine.tsv")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'quarantine.tsv'}: {error}; rebuild the corpus") from error


def table(manifest: dict[str, Any], quarantine: pd.DataFrame, n_details: int = 12) -> str:
    """Return data sets, subjects, runs, hours, t_r and rejected runs as text."""
    head = ("data set", "space", "subjects", "runs", "hours", "t_r (s)", "rejected")
    rows: list[tuple[str, ...]] = [head]
    for name, entry in sorted(manifest["datasets"].items()):
        counts = [str(entry[k]) for k in ("n_subjects", "n_runs")]
        t_r, hours = value_range(entry["t_r"]), f"{entry['hours']:.1f}"
        rows.append((name, entry["space"], *counts, hours, t_r, str(entry["n_quarantined"])))
    totals = manifest["totals"]
    people, runs, rejected = (str(totals[k]) for k in ("n_people", "n_runs", "n_quarantined"))
    rows.append(("all", "", people, runs, f"{totals['hours']:.1f}", "", rejected))
    lines = aligned(rows)
    for name, space in sorted(manifest["spaces"].items()):
        lines.append(f"feature space {name}: {space['n_features']} features")
    size = f"{totals['bytes'] / 2**20:.1f} MiB in {len(manifest['shards'])} shards"
    lines.append(f"{size}, fingerprint {manifest['fingerprint'][:12]}")
    if len(quarantine):
        lines += ["", *quarantined(quarantine, n_details)]
    return "\n".join(lines)


def result(folder: Path, manifest: dict[str, Any], quarantine: pd.DataFrame) -> str:
    """Return one line on a corpus that was built, and the summary of its quarantine."""
    totals = manifest["totals"]
    line = f"{folder}: {totals['n_runs']} runs of {totals['n_people']} people, {totals['hours']:.1f} hours"
    return "\n".join([line, *(quarantined(quarantine) if len(quarantine) else [])])


def quarantined(quarantine: pd.DataFrame, n_details: int = 12) -> list[str]:
    """Return the reasons for which runs are in quarantine, and the first of those runs."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in quarantine.reason.value_counts().items())
    lines = [f"quarantined: {reasons} (quarantine.tsv)"]
    for row in quarantine.head(n_details).to_dict("records"):
        lines.append("  {dataset}/{source}: {reason}: {detail}".format(**row))
    if len(quarantine) > n_details:
        lines.append(f"  ... and {len(quarantine) - n_details} more")
    return lines


def value_range(values: list[float], dash: str = "-") -> str:
    """Write one value, or the smallest and the largest; a dash where there is none."""
    if not values:
        return dash
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low}{dash}{high}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Pad cells: names to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    form = "  ".join(f"{{:{'<' if column < 2 else '>'}{width}}}" for column, width in enumerate(widths))
    return [form.format(*row).rstrip() for row in rows]
