"""`fmriscale embed RUN CORPUS --out x.npz`: the vectors that an encoder makes of a corpus, with their keys.

Reads top to bottom: read the flags, embed run after run, write one table that numpy or pandas opens anywhere.
"""

import argparse
import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmriscale.common.console import counted, say
from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.config.command_line import CommandLine
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    import pandas as pd

    from fmriscale.corpus.reader import Corpus

FORMS = (".npz", ".parquet")
KEYS = ("key", "dataset", "subject", "person", "session", "task", "run", "split", "t_r")
"""Columns of runs.tsv that go with every vector."""
OF_PERSON = ("person", "dataset", "subject", "split")
"""Those of them that go with the vector of a person."""
VECTOR = re.compile(r"v\d+")


def main(args: list[str] | None = None) -> int:
    """Run the verb; return the exit code."""
    given = parser_of_verb().parse_args(args)
    out = expand(given.out)
    if out.suffix not in FORMS:
        raise UserError(f"{out}: give --out a name that ends in {' or '.join(FORMS)}")
    if min(given.length or 1, given.stride or 1) < 1:
        raise UserError("--length and --stride are numbers of volumes, at least 1")
    encoder = find_encoder(given.run)
    if not is_url(given.corpus):
        require_corpus(expand(given.corpus))
    # Imported here: torch is slow to import.
    from fmriscale.corpus.reader import Corpus

    corpus = Corpus.open(given.corpus)
    table = embed(encoder, corpus, given)
    write(out, table)
    n_numbers = sum(VECTOR.fullmatch(str(column)) is not None for column in table)
    print(f"{out}: {len(table):,} vectors of {n_numbers} numbers, a row a {given.rows}")
    return EXIT_OK


def find_encoder(where: str) -> Path:
    """Return the folder of the encoder of a run, or of published weights."""
    from fmriscale.model.remote import local_copy

    run = local_copy(where)
    folders = (run, run / "encoder", run / "model")
    found = next((folder for folder in folders if (folder / "config.json").exists()), None)
    if found is None:
        hint = did_you_mean_path(run) or "; give a pre-training run, or its encoder/ folder"
        raise UserError(f"{run}: no encoder in it (no config.json){hint}")
    return found


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    parser = CommandLine(
        "fmriscale embed", description="The vectors of a corpus, with their keys, as one table."
    )
    parser.add_argument(
        "run", metavar="RUN", help="a pre-training run, its encoder/ folder, or weights (hf://...)"
    )
    parser.add_argument(
        "corpus", metavar="CORPUS", help="folder of a corpus with the same features, or its URL"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="x.npz (numpy) or x.parquet (pandas)")
    parser.add_argument(
        "--rows", choices=["window", "run", "person"], default="run", help="what has a vector (run)"
    )
    parser.add_argument("--length", type=int, metavar="L", help="volumes of a window (the encoder's)")
    parser.add_argument(
        "--stride", type=int, metavar="S", help="volumes from one window to the next (length)"
    )
    parser.add_argument(
        "--pool", choices=["mean", "cls", "bins"], default="mean", help="the vector of a window (mean)"
    )
    parser.add_argument("--space", help="feature space, where the corpus has several")
    return parser


def embed(folder: Path, corpus: "Corpus", given: argparse.Namespace) -> "pd.DataFrame":
    """Return a table of keys and vectors (v0, v1, ...), a row a window, run or person.

    The vector of a run is the mean over its windows, that of a person the mean over the runs.
    """
    import numpy as np
    import pandas as pd
    import torch

    from fmriscale.config import WindowConfig
    from fmriscale.model.encoder import Encoder
    from fmriscale.model.precision import describe_precision
    from fmriscale.model.vectors import window_vectors
    from fmriscale.study.encoders import known_as
    from fmriscale.study.probe.cut import starts_in

    encoder, space = Encoder.from_pretrained(folder), corpus.space(given.space)
    if (name := known_as(space, encoder.meta)) is None:
        known = ", ".join(encoder.config.spaces)
        raise UserError(f"{folder}: reads {known}; {corpus} has '{space.name}', which are other features")
    length = given.length or encoder.config.length
    if encoder.config.positions == "learned" and length != encoder.config.length:
        raise UserError(f"{folder}: has learned positions: leave out --length, it is {encoder.config.length}")
    device = torch.device("cuda" if torch.cuda.device_count() else "cpu")
    say(describe_precision(device, [encoder.config.d_model]))
    encoder.to(device)
    vectors, keys, too_short = [], [], 0
    rows = np.flatnonzero(corpus.runs["space"] == space.name).tolist()
    for row in counted(rows, len(rows), "runs"):
        bold_TV, about = corpus.bold(row), corpus.runs.iloc[row]
        starts = starts_in(about["segments"], about["t_r"], WindowConfig(length=length, stride=given.stride))
        if not starts:
            too_short += 1
            continue
        windows_NLV = np.stack([bold_TV[start : start + length] for start in starts])
        x_ND = window_vectors(encoder, windows_NLV, about["t_r"], name, given.pool)
        about = {key: about[key] for key in KEYS}
        if given.rows == "window":
            keys += [about | {"start": start} for start in starts]
            vectors.append(x_ND)
        else:
            keys.append(about)
            vectors.append(x_ND.mean(axis=0, keepdims=True))
    if too_short:
        print(f"{too_short} runs left out: no window of {length} volumes fits their uncensored stretches")
    if not vectors:
        raise UserError(
            f"{corpus}: no run of space '{space.name}' holds a window of {length} volumes; give --length"
        )
    x_ND = np.concatenate(vectors)
    table = pd.DataFrame(x_ND, columns=[f"v{i}" for i in range(x_ND.shape[1])])
    table = pd.concat([pd.DataFrame(keys), table], axis=1)
    if given.rows != "person":
        return table
    first = {key: "first" for key in OF_PERSON if key != "person"}
    means = dict.fromkeys(table.columns[len(KEYS) :], "mean")
    merged = table.groupby("person", sort=True).agg({**first, **means})
    return merged.reset_index()


def write(out: Path, table: "pd.DataFrame") -> None:
    """Write a table: columns as they are (parquet), or vectors [N, D] and an array a key (npz); no pickle."""
    import numpy as np

    file = io.BytesIO()
    if out.suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        values = [column for column in table if VECTOR.fullmatch(str(column))]
        arrays: dict[str, Any] = {"vectors": table[values].to_numpy(np.float32)}
        for column in table.columns.difference(values, sort=False):
            texts = table[column].dtype.kind not in "if"
            arrays[str(column)] = table[column].to_numpy(str) if texts else table[column].to_numpy()
        np.savez_compressed(file, **arrays)
    with writing_to(out.parent):
        atomic_write(out, file.getvalue())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
