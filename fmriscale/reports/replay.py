"""`fmriscale report RUN --to tensorboard DIR`, `--to wandb [PROJECT]`: a run as other tools show it.

`metrics.jsonl` is the record, and MLflow's figures are logged with it. What is written here comes from the
record alone, with its steps and times: it can be thrown away, and replayed as often as one likes.
"""

import contextlib
import hashlib
import importlib
import io
import netrc
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import yaml

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write, expand, writing_to
from fmriscale.common.suggest import did_you_mean
from fmriscale.reports.metrics import read_metrics
from fmriscale.tracking import flat_numbers

NO_FIGURES = ("step", "time", "event")
"""Numbers of a line that say when it was."""


class Point(NamedTuple):
    """What is known of a step."""

    step: int
    time: float
    """When it ended, s since 1970."""
    numbers: dict[str, float]


class Record(NamedTuple):
    """What is replayed of a run."""

    folder: Path
    points: list[Point]
    """Of every step, in order."""
    recipe: str
    """Text of its config.yaml; "" where that cannot be read."""
    started: float | None
    """When its first line was written, s since 1970; None in records that do not tell."""

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.resolve().name

    @property
    def digits(self) -> str:
        """Eight digits of the hash of its path, which tell runs of one name apart."""
        return hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:8]

    @property
    def settings(self) -> dict[str, Any]:
        """Its recipe as a mapping."""
        with contextlib.suppress(yaml.YAMLError):
            content = yaml.safe_load(self.recipe)
            return content if isinstance(content, dict) else {}
        return {}


def replay(folder: Path, target: str, *place: str) -> str:
    """Replay the record of a run into a tool; return a line that says where it is.

    Raises
    ------
    UserError
        The run has made no step yet, the tool is not known or not installed, or the place is missing or
        taken.
    """
    if target not in TARGETS:
        hint = did_you_mean(target, TARGETS) or f"; choose from {', '.join(TARGETS)}"
        raise UserError(f"--to {target}: no such tool{hint}")
    if len(place) > 1:
        raise UserError(f"--to {target} {' '.join(place)}: give one place, not {len(place)}")
    record = read_record(folder)
    try:
        return TARGETS[target](record, *place)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != target:
            raise
        remedy = f"pip install 'fmriscale[{target}]'"
        raise UserError(f"--to {target}: {target} is not installed: {remedy}") from error


def read_record(folder: Path) -> Record:
    """Read the record of a run: of each step training and evaluation together.

    A step that stands twice has the numbers of its last line.
    """
    path, recipe = folder / "metrics.jsonl", folder / "config.yaml"
    steps, evals = read_metrics(path)
    if not steps:
        raise UserError(f"{path}: no step yet; come back when the run has made some")
    # Older records do not tell times: the last step was when the file was written.
    seconds = float(np.median([line.get("step_p50_s") or 0.0 for line in steps]))
    end, last = path.stat().st_mtime, max(line["step"] for line in steps)
    numbers: dict[int, dict[str, dict[str, float]]] = {}
    times: dict[int, float] = {}
    for lines, prefix in ((evals, "eval/"), (steps, "train/")):
        for line in lines:
            step, figures = line["step"], {k: v for k, v in line.items() if k not in NO_FIGURES}
            numbers.setdefault(step, {})[prefix] = flat_numbers(figures, prefix)
            times[step] = line.get("time") or round(end - (last - step) * seconds, 3)
    points = [
        Point(step, times[step], {k: v for of in numbers[step].values() for k, v in of.items()})
        for step in sorted(numbers)
    ]
    text = recipe.read_text(errors="replace") if recipe.is_file() else ""
    return Record(folder, points, text, min((evals + steps), key=lambda line: line["step"]).get("time"))


def to_tensorboard(record: Record, where: str = "") -> str:
    """Write an event file below a folder that `tensorboard --logdir` takes, one subfolder a run.

    Where the file is there, steps that are new are appended, so that a TensorBoard that is open goes on; a
    record that was cut back, because the run resumed, replaces it.
    """
    if not where:
        raise UserError("--to tensorboard: give the folder of its event files, too: --to tensorboard DIR")
    content = _event_file(record.points, record.recipe)
    own = expand(where) / record.name
    file = own / f"events.out.tfevents.fmriscale-{record.digits}"
    with writing_to(own):
        own.mkdir(parents=True, exist_ok=True)
        if others := [path for path in own.glob("*tfevents*") if path != file]:
            raise UserError(f"{own}: holds events of another run ({others[0].name}); give another DIR")
        before = file.read_bytes() if file.exists() else b""
        if before and content.startswith(before):
            with file.open("ab") as handle:
                handle.write(content[len(before) :])
                os.fsync(handle.fileno())
        else:
            atomic_write(file, content)
    return f"{own}: {len(record.points):,} steps; tensorboard --logdir {where}"


def _event_file(points: list[Point], settings: str) -> bytes:
    """Return the bytes of an event file: its version, the recipe as text, and one event a step."""
    event_pb2, summary_pb2, tensor_pb2, shape_pb2, types_pb2 = (
        importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        for name in ("event", "summary", "tensor", "tensor_shape", "types")
    )
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter

    Event, Summary, start = event_pb2.Event, summary_pb2.Summary, points[0].time
    text = "".join(f"    {line}\n" for line in settings.splitlines())  # Markdown shows it as it stands
    shape = shape_pb2.TensorShapeProto(dim=[shape_pb2.TensorShapeProto.Dim(size=1)])
    of_text = {"dtype": types_pb2.DT_STRING, "string_val": [text.encode()], "tensor_shape": shape}
    tensor = tensor_pb2.TensorProto(**of_text)
    about = create_summary_metadata("config", "The recipe of the run.")
    recipe = Summary(value=[Summary.Value(tag="config", metadata=about, tensor=tensor)])
    events = [Event(wall_time=start, file_version="brain.Event:2")]
    events.append(Event(wall_time=start, step=points[0].step, summary=recipe))
    for point in points:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.numbers.items()]
        events.append(Event(wall_time=point.time, step=point.step, summary=Summary(value=values)))
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString(deterministic=True))
    return buffer.getvalue()


def to_wandb(record: Record, project: str = "") -> str:
    """Write the run for Weights & Biases: to RUN/wandb, or to its server where the user is logged in.

    A second replay into files replaces them; one to the server adds the steps that it does not have yet.
    """
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
    if mode == "disabled":
        raise UserError("--to wandb: WANDB_MODE is disabled; set it to offline or online")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no report of its own over the network
    import wandb
    from wandb.errors import Error

    # A training that began anew in the same folder is another run.
    settings, folder = record.settings, record.folder
    run_id = f"fmriscale-{record.digits}" + (f"-{record.started:.0f}" if record.started else "")
    tracking = settings.get("tracking")
    project = project or (tracking.get("experiment") if isinstance(tracking, dict) else "") or "fmriscale"
    for earlier in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(earlier)
    # Nothing but what is given: no console, no code, no name of the machine or of the user's packages.
    own = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    about: dict[str, Any] = {"project": project, "id": run_id, "name": record.name}
    try:
        with writing_to(folder):
            run = wandb.init(
                **about, dir=str(folder), mode=mode, config=settings, resume="allow", settings=own
            )
            new = [point for point in record.points if point.step >= run.starting_step]
            for point in new:
                run.log({**point.numbers, "_timestamp": point.time}, step=point.step)
            run.finish()
            wandb.teardown()  # waits until its own process has written all
    except Error as error:
        raise UserError(
            f"--to wandb: {' '.join(str(error).split())}; correct that, or set WANDB_MODE=offline"
        ) from error
    told = f"{len(new):,} steps for project {project}"
    if run.offline:
        where = run.settings.sync_dir
        return f"{where}: {told}; wandb sync {where} uploads them"
    return f"{run.url}: {told}"


def _is_logged_in() -> bool:
    """Tell whether there is a key for the server of Weights & Biases."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return host in netrc.netrc(os.environ.get("NETRC")).hosts
    return False


TARGETS = {"tensorboard": to_tensorboard, "wandb": to_wandb}
"""Tool: what replays a run into it."""
