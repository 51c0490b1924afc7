"""A corpus, a pre-training run, a study and a probe never share a folder."""

from pathlib import Path

from fmriscale.common.errors import UserError

_MARKS = {
    "corpus.json": "a corpus",
    "metrics.jsonl": "a pre-training run",
    "cells": "a study",
    "fits": "a probe",
}
"""What tells the content of a folder."""


def refuse_other_content(out: Path, own: str) -> None:
    """Refuse a folder that holds anything but `own`, such as "a study"."""
    for name, content in _MARKS.items():
        if content != own and (out / name).exists():
            raise UserError(f"{out}: holds {content}, which {own} would overwrite; choose another out")
