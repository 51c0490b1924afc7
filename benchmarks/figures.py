"""Figures of training.py as they are told and written."""


class Figures(dict[str, dict]):
    """What is told at the end, and written: name -> value, unit, median_of, reference, quartiles, device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def tell(
        self,
        name: str,
        values: tuple[float, float, float] | float,
        unit: str,
        aim: str,
        n: int,
        others: float,
    ) -> None:
        value, low, high = values if isinstance(values, tuple) else (values,) * 3
        figure = {"value": value, "unit": unit, "median_of": n, "reference": aim}
        figure |= {"low": low, "high": high, "others": round(others, 3), "device": self.device}
        self[f"training.{name}"] = figure

    def print(self) -> None:
        print(f"\n{'figure':36}{'value':>9} {'unit':8}{'quartiles':17}{'aim':9}cores used by others")
        for name, f in self.items():
            quartiles = f"{f['low']:.3f}-{f['high']:.3f}" if f["median_of"] > 1 else ""
            print(
                f"{name:36}{f['value']:9.3f} {f['unit']:8}{quartiles:17}{f['reference']:9}{f['others']:.0%}"
            )
