"""Mutations of valid files, for hypothesis: bytes are flipped and cut, JSON values and cells replaced."""

import copy
import json
import struct
from typing import Any

from hypothesis import strategies as st

_NUMBERS = [0, 1, -1, 2, 127, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]
_LARGEST = {"b": 2**7 - 1, "h": 2**15 - 1, "i": 2**31 - 1, "q": 2**63 - 1}
_WORDS = [struct.pack(f"<{kind}", n) for kind, most in _LARGEST.items() for n in (0, -1, 1, most)]
_WORDS += [struct.pack("<f", x) for x in (float("nan"), float("inf"), -0.0, 1e38)]
_TEXTS = ["", " ", "n/a", "nan", "inf", "-inf", "1e999", "-1", "0", "1_0", "\x00", "é", "\ud7ff", "x" * 300]
_TEXTS += ['"', "'", "=1+1", "#", "../../outside", "/etc/hostname", "https://host/x", "{0.__class__}"]
_TEXTS += ["${HOME}", "<script>", "1:2:3", "\t", "\r", "\n"]
JSON_VALUES: list[Any] = [None, True, False, [], {}, [[]], {"a": 1}, 0, -1, 1, 0.5, -0.5, 2**31, 2**63]
JSON_VALUES += [10**400, 1e308, float("nan"), float("inf"), *_TEXTS]


@st.composite
def damaged(draw: st.DrawFn, valid: bytes, head: int = 0) -> bytes:
    """Draw a file with one to four changes; `head`: half of them fall on its first bytes."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        end = max(1, len(data))
        at = draw(st.integers(0, (min(head, end) if head and draw(st.booleans()) else end) - 1))
        match draw(st.sampled_from(["flip", "word", "word", "word", "cut", "drop", "double", "insert"])):
            case "flip":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "word":
                word = draw(st.sampled_from(_WORDS))
                data[at : at + len(word)] = word
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 64))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data)


@st.composite
def reshaped(draw: st.DrawFn, valid: Any) -> Any:
    """Draw JSON content in which one to three values are of another type, gone, or twice there."""
    content = {"": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["value", "value", "value", "gone", "wrapped", "more"])):
            case "value":
                holder[key] = copy.deepcopy(draw(st.sampled_from(JSON_VALUES)))
            case "gone" if key != "":
                del holder[key]
            case "wrapped":
                holder[key] = [holder[key]]
            case "more" if isinstance(holder, dict):
                holder[draw(st.sampled_from(_TEXTS))] = copy.deepcopy(holder[key])
    return content[""]


def _places(content: Any):
    """Yield every list or mapping and a key of it."""
    keys = (
        content.keys()
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key in list(keys)[:40]:
        yield content, key
        yield from _places(content[key])


@st.composite
def json_text(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw a JSON file: of another shape, or with damaged bytes, or nested very deeply."""
    kind = draw(st.sampled_from(["shape"] * 6 + ["bytes", "deep"]))
    if kind == "deep":
        return b"[" * 3000
    if kind == "bytes":
        return draw(damaged(json.dumps(valid).encode()))
    return json.dumps(draw(reshaped(valid))).encode()


@st.composite
def table(draw: st.DrawFn, valid: str, separator: str = "\t") -> bytes:
    """Draw a table: cells replaced, columns swapped, dropped or named alike, rows cut, or bytes damaged."""
    rows = [line.split(separator) for line in valid.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        n, k = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, max(len(row) for row in rows) - 1))
        row = rows[n]
        match draw(
            st.sampled_from(["cell", "cell", "cell", "number", "swap", "column", "row", "twice", "header"])
        ):
            case "cell" if k < len(row):
                row[k] = draw(st.sampled_from(_TEXTS))
            case "number" if k < len(row):
                row[k] = str(draw(st.sampled_from([*_NUMBERS, -(2**31), 0.5, -3.25, 10**30])))
            case "swap":
                for cells in rows:
                    cells[:1], cells[k : k + 1] = cells[k : k + 1], cells[:1]
            case "column":
                for cells in rows:
                    del cells[k : k + 1]
            case "row":
                del row[k:]
            case "twice":
                rows.insert(n, list(row))
            case "header":
                rows[0] = list(rows[-1])
        if not rows or not any(rows):
            break
    text = "\n".join(separator.join(row) for row in rows) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 5)) == 0 else data
