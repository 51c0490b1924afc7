"""The model card of published weights, made from what a run has recorded."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from fmriscale.common.version import __version__
from fmriscale.reports.licences import Licence
from fmriscale.study.controls import CONTROLS
from fmriscale.study.wording import bounds, counted

OBJECTIVES = {
    "ntp_weight": "Next Thought Prediction (does this sequence follow that one?)",
    "masked_weight": "prediction of masked volumes",
    "contrastive_weight": "the same moment in other people (InfoNCE)",
    "connectivity_weight": "alignment with the connectivity of whole runs",
}
"""What each weight of `train` makes an encoder learn."""
CITATION = """\
The method: Paulsen and Casey (2023), Sequential Transfer Learning to Decode Heard and Imagined Timbre from
fMRI Data, arXiv:2305.13226. Please cite the data sets as their licences ask."""

Meta = Mapping[str, Any]


def card(
    name: str, config: Mapping[str, Any], licence: Licence, held_out: Meta | None, results: Sequence[Meta]
) -> str:
    """Return the card, Markdown under the Hub's YAML header.

    Parameters
    ----------
    name : str
        What `from_pretrained` takes: hf://org/name, or the name of the folder.
    config : mapping
        Published config.json.
    licence : Licence
        Of the weights.
    held_out : mapping, optional
        Line of metrics.jsonl: the evaluation of these weights on runs that they have not seen.
    results : sequence of mapping
        summary.json of studies and probes.
    """
    meta, encoder = config["meta"], config["encoder"]
    header = {
        **licence.fields,
        "library_name": "fmriscale",
        "tags": ["fmri", "neuroscience", "brain", "feature-extraction"],
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {name.rsplit('/', 1)[-1].partition('@')[0]}\n",
        _about(meta, encoder),
        "\n".join(f"> **Licence: {warning}.**" for warning in licence.warnings),
        _loading(name, config),
        _data(meta),
        _spaces(meta),
        _training(meta, encoder),
        _metrics(held_out),
        *map(_result, results),
        _use(meta),
        f"## Citation\n\n{CITATION}\n",
    ]
    return "\n".join(section for section in sections if section)


def _about(meta: Meta, encoder: Meta) -> str:
    sets = meta.get("datasets", {})
    people, hours = (sum(own.get(key) or 0 for own in sets.values()) for key in ("n_people", "hours"))
    amount = (
        f" on {hours:,.1f} hours of fMRI of {people:,} people ({counted(len(sets), 'data set')})"
        if people
        else ""
    )
    return (
        f"An encoder of fMRI sequences (preset {encoder['preset']}, {encoder['n_layers']} blocks, width "
        f"{encoder['d_model']}), pre-trained without labels{amount}. It turns a window of standardised "
        "signals [volumes, features] into a vector. "
        f"Made with fmriscale {meta.get('fmriscale', __version__)}.\n"
    )


def _loading(name: str, config: Mapping[str, Any]) -> str:
    encoder = config["encoder"]
    space, n_features = next(iter(encoder["spaces"].items()))
    low, high = config["meta"].get("t_r") or (2.0, 2.0)
    more = f', space="{space}"' if len(encoder["spaces"]) > 1 else ""
    more += f", t_r={low:g}" if low != high else ""
    return (
        "## Use\n\n```python\nimport numpy as np\nfrom fmriscale import EncoderTransformer\n\n"
        f"windows = np.random.randn(3, {encoder['length']}, {n_features})  # windows, volumes, features; "
        "yours are cut from standardised runs\n"
        f'embed = EncoderTransformer("{name}"{more})\nvectors = embed.fit_transform(windows)  # [3, '
        f"{encoder['d_model']}]\n```\n\n`EncoderTransformer` is a scikit-learn transformer; "
        "`fmriscale.Encoder.from_pretrained` gives the torch module.\n"
    )


def _data(meta: Meta) -> str:
    rows = [
        (name, own.get("licence", "unknown"), own.get("n_people"), own.get("n_runs"), own.get("hours"))
        for name, own in meta.get("datasets", {}).items()
    ]
    if not rows:
        return "## Training data\n\nNot recorded: the run was made by an fmriscale that did not keep it.\n"
    keys = (
        "Runs are named by hash"
        if any(k.startswith("sha256:") for k in meta["train_runs"])
        else "Runs are named"
    )
    return (
        "## Training data\n\n"
        + _table(("data set", "licence", "people", "runs", "hours"), rows)
        + f"\n{keys} in `config.json` (`train_runs`), so that a study can refuse test runs that these "
        "weights have seen.\n"
    )


def _spaces(meta: Meta) -> str:
    rows = []
    for name, space in meta.get("feature_spaces", {}).items():
        atlas = space.get("atlas") or {}
        told = (
            f"{atlas['name']} ({atlas['template']}), sha256 {atlas['sha256'][:12]}"
            if atlas
            else "not a named one"
        )
        where = "mm, in config.json" if space.get("coordinates") else "none"
        rows.append((name, space["n_features"], told, where, space["sha256"][:12]))
    head = ("feature space", "features", "atlas", "coordinates", "hash")
    return "## Feature spaces\n\n" + _table(head, rows) if rows else ""


def _training(meta: Meta, encoder: Meta) -> str:
    config = meta.get("config", {})
    train, pairs = config.get("train", {}), meta.get("pairs") or {}
    weights = {what: train.get(name) or 0 for name, what in OBJECTIVES.items()}
    learnt = "; ".join(f"{what}, weight {weight:g}" for what, weight in weights.items() if weight)
    low, high = meta.get("t_r") or (None, None)
    t_r = "unknown" if low is None else f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
    settings = config.get("data", {})
    controls = [c.description for c in CONTROLS.values() if settings.get(c.setting) == c.value]
    lines = [
        f"objective: {learnt}" if learnt else "",
        f"steps: {meta['step']:,}, of {train.get('global_batch', '?')} pairs" if meta.get("step") else "",
        f"windows: {encoder['length']} volumes, repetition time {t_r}",
        "pairs: " + ", ".join(f"{k} {_plain(v)}" for k, v in pairs.items() if v not in (None, {}, []))
        if pairs
        else "",
        f"read-out: pair {train['pair']}, pool {train['pool']}" if {"pair", "pool"} <= set(train) else "",
        *(f"**a control, not for use: {how}**" for how in controls),
        f"corpus {meta['corpus_fingerprint'][:12]}, recipe {meta['config_hash'][:12]}"
        if "config_hash" in meta
        else "",
    ]
    return "## Pre-training\n\n" + "\n".join(f"* {line}" for line in lines if line) + "\n"


def _metrics(line: Meta | None) -> str:
    if line is None:
        return ""
    figures = {k: v for k, v in line.items() if isinstance(v, float)}
    for kind, accuracy in (line.get("acc_by_kind") or {}).items():
        figures[f"accuracy, {kind.replace('_', ' ')}"] = accuracy
    continuity = (line.get("persistence") or {}).get("acc")
    if continuity is not None:
        figures["accuracy of continuity in time alone (no encoder)"] = continuity
    rows = [(name.replace("_", " "), f"{value:.3f}") for name, value in figures.items() if value is not None]
    return f"## On runs held out of pre-training (step {line['step']:,})\n\n" + _table(
        ("figure", "value"), rows
    )


def _result(summary: Meta) -> str:
    """Return a study or a probe: its question, its verdict and its accuracies."""
    verdict = summary.get("verdict", "")
    sentence = verdict.get("sentence", "") if isinstance(verdict, Mapping) else str(verdict)
    if summary.get("probe"):
        return f"## {summary['question']}\n\n{sentence}\n\n{_probe(summary)}"
    rows = []
    for content in summary.get("arms", {}).values() if isinstance(summary.get("arms"), Mapping) else ():
        figure = content.get("by_condition", {}).get("all", {}).get("accuracy")
        if figure:
            ends = bounds(figure, lambda x: f"{100 * x:.1f}")
            rows.append((content["title"], f"{100 * figure['mean']:.1f} % {ends}".strip()))
    table = "\n" + _table(("arm or baseline", "accuracy [95 %]"), rows) if rows else ""
    return f"## {summary.get('question') or 'Result'}\n\n{sentence}\n{table}"


def _probe(summary: Meta) -> str:
    """Return the figures of every encoder and baseline of a probe."""
    names = summary["figures"]

    def figure(content: Meta) -> str:
        return f"{content['mean']:.3f} {bounds(content, lambda x: f'{x:.3f}')}".strip()

    rows = [(own["title"], *(figure(own[name]) for name in names)) for own in summary["methods"].values()]
    return _table(("method", *(f"{name.replace('_', ' ')} [95 %]" for name in names)), rows)


def _use(meta: Meta) -> str:
    sets = meta.get("datasets", {})
    people = sum(own.get("n_people") or 0 for own in sets.values())
    who = f"the {people:,} people of {', '.join(sets)}" if people else "few people"
    return (
        "## Intended use and limits\n\n"
        "* For research: features of fMRI windows for decoding, and a start for fine-tuning.\n"
        "* **Not a medical device.** Nothing here is validated for diagnosis, prognosis or any decision "
        "about a person.\n"
        f"* It knows {who}: other scanners, protocols, ages or patients may give worse or biased vectors. "
        "Hold it against simple baselines (connectivity, a linear model) on your data first.\n"
        "* Vectors may tell people, sites and scanners apart: do not use them to identify anybody.\n"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join("" if c is None else str(c).replace("|", "\\|") for c in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            "("
            + ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
            + ")"
        )
    return f"{value:g}" if isinstance(value, float) else str(value)
