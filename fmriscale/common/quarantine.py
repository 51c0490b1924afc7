"""A run that cannot be used, and why: a line of quarantine.tsv."""

from dataclasses import dataclass

from fmriscale.common.files import printable


class Rejected(Exception):
    """A run goes to quarantine: a short reason (no_t_r, unreadable), and a sentence with the remedy."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())


@dataclass(frozen=True)
class Rejection:
    """A line of quarantine.tsv."""

    dataset: str
    source: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        """Keep the line one line, whatever files are called and hold."""
        object.__setattr__(self, "source", printable(self.source))
        object.__setattr__(self, "detail", printable(" ".join(self.detail.split())))
