"""Encoders on the Hugging Face Hub: the one file that knows its library, which is imported when it is used.

Cache, token, mirror and offline mode are the library's own: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.common.version import __version__

SCHEME = "hf://"
FILES = ("config.json", "model.safetensors")
"""Files of an encoder's folder that are read; the first says what the second must hold."""
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)/?(?:@([\w./-]+))?")


def download(url: str) -> Path:
    """Bring an encoder's files into the Hub's cache, both of one commit; return their folder."""
    repository, revision = _parse(url)
    library = _library(url)
    with _explained(url, repository, revision):
        about: dict[str, Any] = {"library_name": "fmriscale", "library_version": __version__}
        folder = Path(library.hf_hub_download(repository, FILES[0], revision=revision, **about)).parent
        library.hf_hub_download(repository, FILES[1], revision=folder.name, **about)
    return folder


def upload(folder: Path, url: str, private: bool) -> str:
    """Put a published folder into a repository, which is made where there is none; return its page."""
    repository, revision = _parse(url)
    api = _library(url).HfApi(library_name="fmriscale", library_version=__version__)
    with _explained(url, repository, revision):
        page = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=[*FILES, "README.md"],
            commit_message=f"Encoder published by fmriscale {__version__}",
        )
    return str(page)


def check_address(url: str) -> None:
    """Refuse what is no address of the Hub, or where its library is missing."""
    _parse(url)
    _library(url)


def _parse(url: str) -> tuple[str, str | None]:
    """Return repository and revision (None = the newest) of an address."""
    found = _ADDRESS.fullmatch(url)
    if not found:
        raise UserError(f"{url}: give hf://ORGANISATION/NAME, or hf://ORGANISATION/NAME@REVISION")
    return found[1], found[2]


def _library(url: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{url}: a package for the Hub is missing: pip install 'fmriscale[hub]'") from None
    return huggingface_hub


@contextlib.contextmanager
def _explained(url: str, repository: str, revision: str | None) -> Iterator[None]:
    """Turn the library's errors into one line with the remedy."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{url}: {error}; give hf://ORGANISATION/NAME") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{url}: not in this machine's cache, and the Hub is not reached (HF_HUB_OFFLINE? no network?); "
            f"where there is a network: hf download {repository} {' '.join(FILES)}{at} --local-dir FOLDER, "
            "then give FOLDER"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{url}: the repository has no revision '{revision}'; leave it out or correct it"
        ) from None
    except errors.RepositoryNotFoundError:
        remedy = "correct the name, or log in where it is private (hf auth login, or HF_TOKEN)"
        raise UserError(f"{url}: there is no such repository for you; {remedy}") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{url}: holds no {' and '.join(FILES)}, so no encoder of fmriscale") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{url}: you are not logged in; hf auth login, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "hf auth login with a token that may write there" if status in (401, 403) else "try again"
        raise UserError(f"{url}: the Hub answers HTTP {status}; {remedy}") from None
    except Exception as error:  # whatever its library for HTTP raises where a connection breaks
        raise UserError(f"{url}: no answer of the Hub ({type(error).__name__}); try again") from None
