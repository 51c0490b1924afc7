"""tools/demo: its recipes, its last screen, and what it says when a stage fails."""

import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fmriscale.config import CorpusConfig, PretrainConfig, ProbeConfig, SimulateConfig, StudyConfig
from fmriscale.config.recipe import parse

CLASSES = {
    "simulate": SimulateConfig,
    "shard": CorpusConfig,
    "fmriscale/train.py": PretrainConfig,
    "finetune": StudyConfig,
    "probe": ProbeConfig,
}


@pytest.fixture(scope="module")
def demo(repository: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("demo", str(repository / "tools/demo"))
    spec = importlib.util.spec_from_loader("demo", loader)
    assert spec
    sys.modules["demo"] = module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def in_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def steps(demo: ModuleType, plan: str, monkeypatch: pytest.MonkeyPatch) -> list:
    """Verb and parsed recipe of every stage, as its command line gives them."""
    monkeypatch.setattr(demo, "ranks", lambda: 2)
    monkeypatch.setattr(demo, "held_out", lambda fold: [f"*_sub-{fold}_*"])
    found = []
    for stage in demo.PLANS[plan]()[0]:
        command = stage.command()
        place = next(place for place, word in enumerate(command) if word in CLASSES)
        found.append((command[place], parse(CLASSES[command[place]], command[place + 1 :])))
    return found


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("plan", ["simulated", "real", "haxby"])
def test_every_stage_has_a_recipe_that_parses_and_its_folder_is_where_the_next_ones_look(
    demo: ModuleType, plan: str, monkeypatch: pytest.MonkeyPatch
):
    stages, endings = demo.PLANS[plan]()
    made = [os.path.normpath(config.out) for _, config in steps(demo, plan, monkeypatch)]
    assert made == [stage.result for stage in stages]
    for place, (verb, config) in enumerate(steps(demo, plan, monkeypatch)):
        needed = {
            "fmriscale/train.py": lambda c: [c.data.corpus],
            "finetune": lambda c: [c.corpus, *encoders([c.pretrained, *c.controls.values()], c.n_folds)],
            "probe": lambda c: [c.corpus, *encoders(c.encoders.values(), c.n_folds)],
        }.get(verb, lambda c: [])(config)
        assert {os.path.normpath(path) for path in needed} <= set(made[:place])
    assert {str(ending.folder) for ending in endings} <= set(made)


def encoders(paths, n_folds: int) -> list[str]:
    """Run folders of encoders, of every fold."""
    return [str(Path(path.replace("{fold}", str(fold))).parent) for path in paths for fold in range(n_folds)]


@pytest.mark.usefixtures("in_repository")
def test_the_two_experiments_differ_in_the_simulation_alone(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    both = steps(demo, "simulated", monkeypatch)
    half = len(both) // 2

    def settings(config) -> str:
        return repr(config).replace("demo/offsets/", "demo/")

    assert [verb for verb, _ in both[:half]] == [verb for verb, _ in both[half:]]
    (_, effect), (_, offsets) = both[0], both[half]
    assert [settings(c) for _, c in both[1:half]] == [settings(c) for _, c in both[half + 1 :]]
    changed = {name for name in vars(effect) if getattr(effect, name) != getattr(offsets, name)}
    assert changed == {"out", "timbre"}
    assert effect.timbre > 0 and offsets.timbre == 0 and offsets.run_offset > 0


def test_the_film_parts_keep_the_tested_part_and_people_from_the_encoder(repository: Path):
    recipes = repository / "configs"
    corpus, train, probe = (
        yaml.safe_load((recipes / f"{name}.yaml").read_text())
        for name in ("corpus_film_parts", "pretrain_film", "probe_film_moment")
    )
    seen, tested = train["data"]["datasets"], probe["datasets"]
    names = [dataset["name"] for dataset in corpus["datasets"]]
    assert sorted([*seen, *tested]) == sorted(names) and not set(seen) & set(tested)
    assert len(train["data"]["holdout_runs"]) == 15 // probe["n_folds"]


# ---------------------------------------------------------------- the last screen


def write_study(folder: Path, survives: bool | None, sentence: str, accuracy: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    arms = {name: {"by_condition": {"all": {"accuracy": {"mean": mean}}}} for name, mean in accuracy.items()}
    summary = {"verdict": {"survives": survives, "sentence": sentence}, "arms": arms}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_last_screen_says_what_was_put_in_and_what_was_found(demo: ModuleType, tmp_path: Path):
    truths = {"yes": {"timbre": 0.8, "run_offset": 0.5}, "no": {"timbre": 0.0, "run_offset": 1.0}}
    for name, strengths in truths.items():
        truth = {"config": {"n_subjects": 40, **strengths}}
        (tmp_path / f"{name}.json").write_text(json.dumps(truth))
    arms = {"pretrained": 0.8123, "fresh": 0.5, "category": 0.64, "correlation": 0.66, "shuffled": 0.9}
    write_study(tmp_path / "a", True, "Yes: it survives: +30; by condition: heard", arms)
    write_study(tmp_path / "b", False, "No: both arms are at chance.", dict.fromkeys(arms, 0.5))
    endings = [
        demo.Ending("with an effect", tmp_path / "a", tmp_path / "yes.json"),
        demo.Ending("without", tmp_path / "b", tmp_path / "no.json"),
    ]
    stages = [demo.Stage("simulate", "demo/x", list), demo.Stage("fine-tune", "demo/y", list)]
    text = demo.last_screen([(stages[0], 1.3, ""), (stages[1], 60.0, " (note)")], endings)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1:4] == ["simulate 1.3 s demo/x", "fine-tune 60.0 s demo/y (note)", "all 61.3 s"]
    yes, no = (" ".join(part.split()) for part in text.split("\n\n")[1:])
    assert "timbre leaves a pattern of 0.8 s.d." in yes and "nothing to find" in no
    assert "Yes. In people never seen, the pre-trained encoder is right in 81.2 % of pairs" in yes
    assert "a fresh one in 50.0 %, the best simple method (correlation) in 66.0 %" in yes
    assert "verdict Yes: it survives: +30. page" in yes
    assert "found No. " in no and "verdict No: both arms are at chance. page" in no
    assert all(f"{tmp_path / name / 'report.html'}" in text for name in "ab")


def test_the_last_screen_of_a_probe_has_few_and_all_labels_and_its_note(demo: ModuleType, tmp_path: Path):
    of_sizes = {2: (0.856, 0.24, 0.574), None: (0.952, 0.594, 0.945)}
    rows = [
        {"method": method, "size": size, "balanced_accuracy": {"mean": mean}}
        for size, means in of_sizes.items()
        for method, mean in zip(("pretrained", "fresh", "shared"), means, strict=True)
    ]
    sentence = "No: not above it; AUC 0.9; trained on fewer it is above it with 2 people."
    summary = {
        "probe": True,
        "figures": ["balanced_accuracy", "auc"],
        "main": "pretrained",
        "sizes": [2, None],
    }
    summary |= {"best_baseline": "shared", "methods": {"shared": {"title": "shared directions"}}}
    summary |= {"by_size": rows, "verdict": {"survives": False, "sentence": sentence}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = " ".join(demo.last_screen([], [demo.Ending("films", tmp_path, note="all linear")]).split())
    assert "with 2 of the others labelled: pre-trained 85.6%, fresh 24.0%, shared directions 57.4%" in text
    assert "with all of the others labelled: pre-trained 95.2%" in text
    assert "verdict No: not above it; trained on fewer it is above it with 2 people. note all linear" in text


# ---------------------------------------------------------------- running


def in_python(demo: ModuleType, name: str, code: str):
    return demo.Stage(name, "nothing", lambda: [sys.executable, "-c", code])


def test_a_stage_that_fails_shows_the_end_of_its_log_and_where_it_is(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    fine = in_python(demo, "first", "print('noise of a launcher')")
    code = "import sys; [print('line', n) for n in range(50)]; sys.exit('no space left')"
    screen, told = io.StringIO(), []
    with pytest.raises(demo.Failed) as failed:
        told += list(demo.run([fine, in_python(demo, "second, x", code), fine], screen))
    exit_code, text = failed.value.args
    assert exit_code == 1 and screen.getvalue().count("\n") == 1 and "noise" not in screen.getvalue()
    assert "line 49\n    no space left" in text and "line 1\n" not in text
    log = tmp_path / "demo/logs/02-second-x.log"
    assert "demo/logs/02-second-x.log" in text and "line 1\n" in log.read_text()
    assert "noise of a launcher" in (tmp_path / "demo/logs/01-first.log").read_text()


def test_a_terminal_has_a_bar_and_a_log_plain_lines(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.chdir(tmp_path)
    stages = [in_python(demo, name, "pass") for name in ("one", "two")]
    terminal, log = Terminal(), io.StringIO()
    for screen in (terminal, log):
        assert [stage.name for stage, _, _ in demo.run(stages, screen)] == ["one", "two"]
    assert "\r" not in log.getvalue() and len(log.getvalue().splitlines()) == 2
    assert f"[{'#' * 12}{'.' * 12}] 1/2  two" in terminal.getvalue()


def test_pages_open_where_there_is_a_browser_unless_switched_off(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opener = tmp_path / ("open" if sys.platform == "darwin" else "xdg-open")
    opener.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for display, switch in ((None, None), (":0", "no"), (":0", None)):
        for name, value in (("DISPLAY", display), ("OPEN", switch)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        started = demo.open_pages([tmp_path / "a.html", tmp_path / "b.html"])
        assert len(started) == (2 if display and not switch else 0)
        for process in started:
            process.wait()
    assert sorted((tmp_path / "opened").read_text().split()) == [f"{tmp_path}/{n}.html" for n in "ab"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert demo.open_pages([tmp_path / "a.html"]) == []


def test_wrong_words_and_missing_data_are_refused_in_a_line(repository: Path, tmp_path: Path):
    def run(*words: str, **environment: str) -> tuple[int, str]:
        line = [sys.executable, repository / "tools/demo", *words]
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment})
        return done.returncode, done.stderr

    assert run("wrong")[0] == 2
    if (repository / ".venv/bin/fmriscale").exists():
        code, text = run("real", FMRISCALE_DATA=str(tmp_path))
        assert code == 2 and text.count("\n") == 1 and "studyforrest_avmovie_shen267" in text
