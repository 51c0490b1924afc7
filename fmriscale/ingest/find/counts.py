"""Where every file of a data set went: none may vanish."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """The scans of a data set, counted in files (in arrays of archives; a pair of hemispheres is two).

    Attributes
    ----------
    listed : int
        All that were found.
    in_runs : int
        Those of runs that are read.
    quarantined : int
        Those that are no usable run as they are called, placed or accompanied.
    unwanted : int
        Those that `entities` leaves out, and phase images.
    other : int
        Other renderings and echoes of the same runs.

    Raises
    ------
    RuntimeError
        The numbers do not add up: a fault of this program.
    """

    listed: int
    in_runs: int
    quarantined: int
    unwanted: int = 0
    other: int = 0

    def __post_init__(self) -> None:
        told = self.in_runs + self.quarantined + self.unwanted + self.other
        if self.listed != told:
            raise RuntimeError(f"{self.listed} files were listed, but {told} accounted for: {self}")

    def __str__(self) -> str:
        parts = [f"{self.in_runs} in runs", f"{self.quarantined} quarantined"]
        parts += [f"{self.unwanted} left out by entities"] * bool(self.unwanted)
        parts += [f"{self.other} other renderings or echoes of them"] * bool(self.other)
        return f"{self.listed} listed = {' + '.join(parts)}"
