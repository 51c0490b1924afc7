"""troubleshooting.md and a page for each step of the work: every refusal, by its message."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import escape
import yaml
from refusals import Refusal, own_words, slugs

TEXTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "texts" / "troubleshooting.yaml").read_text())
QUARANTINE = "quarantine"
FEWEST = 3
"""Fewest words of its own of a heading."""
LONGEST = 84
"""Letters of the longest heading."""


def pages() -> dict[str, str]:
    """Return the pages by name."""
    if lost := sorted(set(TEXTS["notes"]) - set(slugs())):
        raise SystemExit(f"texts/troubleshooting.yaml: notes about refusals that are gone: {', '.join(lost)}")
    found = placed()
    made = {f"troubleshooting/{page}.md": _page(text, found[page]) for page, text in TEXTS["pages"].items()}
    made[f"troubleshooting/{QUARANTINE}.md"] = _quarantine(found[QUARANTINE])
    return {"troubleshooting.md": _index(found), **made}


def placed() -> dict[str, dict[str, dict[str, Refusal]]]:
    """Return all refusals by page, by group (or reason), by anchor."""
    found: dict[str, dict[str, dict[str, Refusal]]] = {page: {} for page in (*TEXTS["pages"], QUARANTINE)}
    for slug, refusal in slugs().items():
        page, group = place_of(refusal)
        found[page].setdefault(group, {})[slug] = refusal
    return found


def place_of(refusal: Refusal) -> tuple[str, str]:
    """Return the page and the group of a refusal: the one that names its module most exactly."""
    if refusal.reason:
        return QUARANTINE, refusal.reason
    best = (0, "", "")
    for page, text in TEXTS["pages"].items():
        for group in text["groups"]:
            for name in group["modules"]:
                if refusal.module == name or refusal.module.startswith(f"{name}/"):
                    best = max(best, (len(name), page, group["title"]))
    if not best[0]:
        raise SystemExit(f"texts/troubleshooting.yaml: no group has {refusal.module}; add it to one")
    return best[1], best[2]


def _page(text: dict[str, Any], found: dict[str, dict[str, Refusal]]) -> str:
    lines = [f"# {text['title']}", "", escape.BANNER, text["intro"]]
    for group in text["groups"]:
        if group["title"] in found:
            lines += ["", f"## {group['title']}", "", group["intro"], ""]
            for slug, refusal in found[group["title"]].items():
                lines += _entry(slug, refusal)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).rstrip()) + "\n"


def _quarantine(found: dict[str, dict[str, Refusal]]) -> str:
    if differ := sorted(set(TEXTS["reasons"]) ^ set(found)):
        raise SystemExit(f"texts/troubleshooting.yaml: reasons and source differ in {', '.join(differ)}")
    lines = [
        "# Quarantined runs",
        "",
        escape.BANNER,
        TEXTS["quarantine"]["intro"],
        "",
        "| reason | what it means | what to do |",
        "|---|---|---|",
    ]
    for reason, (meaning, remedy) in sorted(TEXTS["reasons"].items()):
        lines.append(f"| [`{reason}`](#{reason}) | {meaning} | {remedy} |")
    for reason in sorted(found):
        lines += ["", f"## {reason}", ""]
        for slug, refusal in found[reason].items():
            lines += _entry(slug, refusal)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).rstrip()) + "\n"


def _entry(slug: str, refusal: Refusal) -> Iterator[str]:
    title = title_of(refusal.forms[0])
    yield from (f'<a id="{slug}"></a>', "", f"### {escape.text(title)}", "")
    if refusal.forms != (title,):
        yield from (*(f"* {_code(form)}" for form in refusal.forms), "")
    if note := TEXTS["notes"].get(slug):
        yield from (note, "")


def title_of(form: str) -> str:
    """Return what a message says, without the name of the file before it and the remedy after it."""
    said = re.sub(r"^(?:(?:data set|features|feature space) '<\w+>'|'?<\w+>'?): ", "", form)
    first = re.split(r"; |(?<=[\w>)']): (?=[a-z].{40})", said)[0]
    said = first if own_words(first) >= FEWEST else said
    if len(said) <= LONGEST:
        return said
    return said[:LONGEST].rsplit(" ", 1)[0].rstrip(",(") + " ..."


def _code(form: str) -> str:
    fence = "``" if "`" in form else "`"
    pad = " " if "`" in form else ""
    return f"{fence}{pad}{form}{pad}{fence}"


def _index(found: dict[str, dict[str, dict[str, Refusal]]]) -> str:
    count = sum(len(group) for groups in found.values() for group in groups.values())
    lines = [
        "# Troubleshooting by message",
        "",
        escape.BANNER,
        *TEXTS["intro"].rstrip().replace("COUNT", str(count)).splitlines(),
        "",
        "| you were | page |",
        "|---|---|",
    ]
    for page, text in [*TEXTS["pages"].items(), (QUARANTINE, TEXTS["quarantine"])]:
        lines.append(f"| {text['doing']} | [{text['title']}](troubleshooting/{page}.md) |")
    lines += ["", *TEXTS["index"].rstrip().splitlines(), "", "## Met often", ""]
    for page, groups in found.items():
        entries = {slug: refusal for group in groups.values() for slug, refusal in group.items()}
        for slug in (slug for slug in entries if slug in TEXTS["notes"]):
            lines.append(
                f"* [{escape.text(title_of(entries[slug].forms[0]))}](troubleshooting/{page}.md#{slug})"
            )
    return "\n".join(lines) + "\n"
