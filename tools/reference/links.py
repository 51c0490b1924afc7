"""Hook of mkdocs: what pages link to outside docs/ becomes a page of the site.

On a git host, `[recipe](../configs/haxby.yaml)` opens the file. On the site it opens a page that shows it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
TOP_PAGES = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "README.md")
LINK = re.compile(r"(?<!\\)\[([^\[\]]*)\]\(([^()\s]+)\)")
LANGUAGES = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".py": "python",
    ".sh": "bash",
    ".toml": "toml",
    ".json": "json",
}
LONGEST = 100_000
"""Bytes of the largest file that is shown."""


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file outside docs/ that a page links to, and for those at the top."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    targets = {target for uri, text in texts.items() for target in _outside(text, posixpath.dirname(uri))}
    for name in TOP_PAGES:
        if (ROOT / name).is_file():
            targets.add(name)
            targets |= _outside((ROOT / name).read_text(), "..")
    for target in sorted(targets):
        if (content := page_text(target)) is not None:
            inclusion = InclusionLevel.NOT_IN_NAV  # it need not be; a test asks for those of the top
            files.append(File.generated(config, page_of(target), content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links of a page that lead out of docs/ to the pages of those files."""
    uri = page.file.src_uri
    top = {page_of(name): name for name in TOP_PAGES}
    return rewritten(markdown, ".." if uri in top else posixpath.dirname(uri), posixpath.dirname(uri))


def rewritten(text: str, read_at: str, shown_at: str) -> str:
    """Return Markdown of a folder (below docs/) with links for the folder in which the site shows it."""

    def change(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in path or target.startswith("mailto:"):
            return found[0]
        repository = _in_repository(read_at, path)
        if repository.startswith("docs/"):
            inside = posixpath.relpath(repository.removeprefix("docs/"), shown_at or ".")
            return f"[{words}]({inside}{mark}{anchor})"
        if page_text(repository) is None:  # a folder, or no text: its name alone
            shown = words.strip("`")
            return f"`{repository}`" if shown.rstrip("/") == repository else f"{words} (`{repository}`)"
        return f"[{words}]({posixpath.relpath(page_of(repository), shown_at or '.')}{mark}{anchor})"

    return "".join(
        piece if piece.startswith(("```", "`")) else LINK.sub(change, piece)
        for piece in re.split(r"(^```.*?^```|(?<!\[)`[^`\n]+`(?!\]))", text, flags=re.DOTALL | re.MULTILINE)
    )


def page_of(repository: str) -> str:
    """Return the page that shows a file of the repository."""
    return repository.lower() if repository in TOP_PAGES else f"source/{repository}.md"


def page_text(repository: str) -> str | None:
    """Return the page of a file: its text as it is, or in a block of code; None where it has none."""
    path = ROOT / repository
    if not path.is_file() or path.stat().st_size > LONGEST:
        return None
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return None
    if repository in TOP_PAGES:
        return text
    return f"# {repository}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"


def _outside(text: str, folder: str) -> set[str]:
    """Return the paths in the repository, outside docs/, of all links of a page in a folder below docs/."""
    found = set()
    for _, target in LINK.findall(text):
        path = target.partition("#")[0]
        if path and "://" not in path and not target.startswith("mailto:"):
            found.add(_in_repository(folder, path))
    return {path for path in found if not path.startswith(("docs/", ".."))}


def _in_repository(folder: str, path: str) -> str:
    """Return where a link of a page in a folder below docs/ leads to, from the top of the repository."""
    return posixpath.normpath(posixpath.join("docs", folder, path))
