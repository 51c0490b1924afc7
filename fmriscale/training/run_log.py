"""What a run records: console, `metrics.jsonl` and MLflow, all of it on rank 0 alone."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fmriscale.common.console import Progress
from fmriscale.common.files import writing_to
from fmriscale.config.recipe import flatten, save_config, to_dict
from fmriscale.tracking import Tracker, flat_numbers
from fmriscale.training.console import eval_line, save_line, step_line
from fmriscale.training.distributed import agree_on_errors
from fmriscale.training.evaluation import persistence
from fmriscale.training.metrics import (
    SPIKE,
    MetricsFile,
    StepTimer,
    Work,
    peak_flops,
    spike_score,
)
from fmriscale.training.resilience import write_outcome
from fmriscale.training.run import Run


class RunLog:
    """The records of a run that resumes from a step; on all ranks but rank 0 every method does nothing."""

    def __init__(self, run: Run, start: int, mlflow_run_id: str | None) -> None:
        self.run, self.start = run, start
        self.metrics: MetricsFile | None = None
        self.tracker: Tracker | None = None
        with agree_on_errors(), writing_to(run.out):
            if run.world.is_main:
                save_config(run.config, run.out / "config.yaml")
                self.metrics = MetricsFile(run.out / "metrics.jsonl", start)
        if not self.metrics:
            return
        self.tracker = Tracker(run.config.tracking, run.out.parent, run.out.name, run_id=mlflow_run_id)
        scale = {"world_size": run.world.world_size, "precision": run.precision}
        self.tracker.log_params(flatten(to_dict(run.config)) | scale)
        if self.tracker.run_id:
            run.world.say(f"MLflow   run {self.tracker.run_id} in {self.tracker.uri}")
        n_pairs = run.config.train.eval_pairs
        self._persistence = {}
        if run.held_out and run.objective.tasks.classify:
            self._persistence = persistence(run.loader, run.held_out, n_pairs)
        # A store takes 10 ms and more for a line: training does not wait for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._progress = Progress(run.config.train.steps, "steps", done=start, log=False)
        self._timer = StepTimer(run.world.world_size, peak_flops(run.world.device, run.precision))

    def step(self, line: dict[str, Any], seconds: float, waited: float, work: Work) -> None:
        """Record a step, complete its line; every log_every-th goes to console and MLflow too."""
        if not (self.metrics and self.tracker):
            return
        self._progress.update()
        settings, step = self.run.config.train, line["step"]
        spike = line["spike"] = spike_score(line["loss"], self.metrics.losses)
        line |= self._timer.measure(seconds, waited, work)
        self.metrics.write(_dated(line))
        if step % settings.log_every == 0 or step in (self.start + 1, settings.steps) or spike >= SPIKE:
            self.run.world.say(step_line(line, settings.steps))
            self._track(step, flat_numbers(line, "train/"))
        if not line["finite"]:
            cause = "; ".join(line["bad_pairs"]) or "in the gradient alone"
            self.run.world.print(f"step {step}: not finite, the weights are left alone: {cause}")

    def evaluation(self, step: int, summary: dict[str, Any]) -> None:
        """Record an evaluation."""
        if not (self.metrics and self.tracker):
            return
        line = {"event": "eval", "step": step, **summary}
        line |= {"persistence": self._persistence} if self._persistence else {}
        self.metrics.write(_dated(line))
        self._track(step, flat_numbers(line, "eval/"))
        self.run.world.say(eval_line(line))

    def saved(self, figures: dict[str, Any]) -> None:
        """Record a checkpoint that was, or was not, written."""
        if not self.metrics:
            return
        self.metrics.write(_dated({"event": "save", **figures}))
        (self.run.world.print if figures["error"] else self.run.world.say)(save_line(figures))
        if not figures["error"]:
            write_outcome("saved")

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run, for a restart to continue."""
        return self.tracker.run_id if self.tracker else None

    def sync(self) -> None:
        """Force `metrics.jsonl` to disk."""
        if self.metrics:
            self.metrics.sync()

    def _track(self, step: int, numbers: dict[str, float]) -> None:
        """Log numbers in MLflow, with the time of now, in the thread."""
        if self.tracker:
            self._thread.submit(self.tracker.log_history, [(step, time.time(), numbers)])

    def artifacts(self) -> None:
        """Copy the small files of a finished run to MLflow."""
        if self.tracker:
            for name in ("config.yaml", "metrics.jsonl"):
                self.tracker.log_artifact(self.run.out / name)
            self.tracker.log_artifact(self.run.out / "encoder" / "config.json", "encoder")

    def close(self, status: str) -> None:
        """Close the records; status is FINISHED, KILLED or FAILED."""
        if self.metrics and self.tracker:
            self.metrics.close()
            self._progress.close()
            self._thread.shutdown()
            self.tracker.close(status)


def _dated(line: dict[str, Any]) -> dict[str, Any]:
    """Add the time to a line of the record, s since 1970."""
    return {**line, "time": round(time.time(), 3)}
