"""What licences of data sets mean for weights that were trained on them: what a model card must say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CC_BY = re.compile(r"cc[ -]by((?:-nc)?(?:-sa|-nd)?)[ -]v?([1-4]\.0)")
_OTHERS = {
    "cc0-1.0": r"cc[ -]?0\b.*|cc[ -]zero.*",
    "pddl": r"pddl\b.*|public domain.*",
    "odc-by": r"odc[ -]by\b.*",
    "odbl": r"odbl\b.*",
    "mit": r"mit\b.*",
    "apache-2.0": r"apache[ -]?(?:licen[cs]e )?2(?:\.0)?.*",
    "gpl-3.0": r"gpl[ -]?v?3(?:\.0)?.*",
}
_UNKNOWN = re.compile(
    r"(?:|-|n/a|none\b.*|unknown\b.*|not (?:given|known|stated)\b.*|on request\b.*)", re.IGNORECASE
)
_NON_COMMERCIAL = re.compile(r"\bnc\b|non[ -]?commercial", re.IGNORECASE)
_FREE = re.compile(r"cc0-1\.0|pddl|cc-by-\d\.\d")
"""Licences that ask no more than credit: a stricter one beside them decides."""


@dataclass(frozen=True)
class Licence:
    """The licence of published weights."""

    fields: dict[str, str]
    """`license` of a model card, with `license_name` where that is `other`."""
    warnings: list[str]
    """What whoever takes the weights must know, a sentence each."""


def hub_name(licence: str) -> str | None:
    """Return the Hub's identifier of a licence as people write it; None where it has none."""
    text = " ".join(licence.lower().split())
    if found := _CC_BY.fullmatch(text):
        return f"cc-by{found[1]}-{found[2]}"
    return next(
        (name for name, pattern in _OTHERS.items() if text == name or re.fullmatch(pattern, text)), None
    )


def is_non_commercial(licence: str) -> bool:
    """Tell whether a licence forbids commercial use."""
    return _NON_COMMERCIAL.search(licence) is not None


def licence_of(datasets: Mapping[str, Mapping[str, Any]], given: str | None = None) -> Licence:
    """Return the licence that the card of weights names.

    The law on weights is not settled: the card never promises more than the data sets do. One licence of all
    data sets is that of the weights; a stricter one beside public domain or plain credit decides; of weights
    of non-commercial data the field says so, whatever is given.
    """
    licences = {name: str(content.get("licence", "")) for name, content in datasets.items()}
    restricted = [name for name, licence in licences.items() if is_non_commercial(licence)]
    unknown = [name for name, licence in licences.items() if _UNKNOWN.fullmatch(licence.strip())]
    warnings = []
    if restricted:
        which = ", ".join(sorted({licences[name] for name in restricted}))
        warnings.append(f"trained on data for non-commercial use ({which}: {_some(restricted)})")
    if unknown or not licences:
        warnings.append(
            f"trained on data whose licence is not known ({_some(unknown) or 'no data set is named'})"
        )
    return Licence(_fields(set(licences.values()), bool(restricted), bool(unknown), given), warnings)


def _fields(licences: set[str], restricted: bool, unknown: bool, given: str | None) -> dict[str, str]:
    names = {hub_name(licence) for licence in licences}
    if given is not None:
        own = hub_name(given)
        if restricted and not is_non_commercial(given):
            return _other(f"{own or given} of non-commercial data")
        return {"license": own} if own else _other(given)
    strict = {name for name in names if name is None or not _FREE.fullmatch(name)}
    if restricted and (len(strict) > 1 or None in strict):
        return _other("non-commercial data")
    if unknown or not licences:
        return {"license": "unknown"}
    if len(names) == 1 or len(strict) == 1:
        (name,) = strict or names
        return (
            {"license": name} if name else _other(licences.pop() if len(licences) == 1 else "see data sets")
        )
    return _other("see data sets")


def _other(name: str) -> dict[str, str]:
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")}


def _some(names: list[str]) -> str:
    """Name the first of some data sets."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
