"""A search for better settings: Optuna proposes them, ordinary cells try them, evaluations in training stop those that fall behind.
The best are then compared with the preset's on seeds that no trial has seen.

Everything that is known stands in DIR/.sweep/search.log, Optuna's journal, so the same command goes on with trials that were being tried.
A trial is drawn by TPE (Bergstra et al. 2011) from the trials that have ended, with a seed of its own; the first is the preset itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from arcturus.comparing.comparison import ENOUGH, EVALUATED, read_run, standing
from arcturus.errors import ArcturusError, ConfigError, EnvironmentProblem
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import Run, read_metrics
from arcturus.runs.settings import RunConfig, resolve
from arcturus.scoring.statistics import improvement, percentiles, resampled
from arcturus.sweeps.cell import MACHINES, STATE
from arcturus.sweeps.file import Cell, Sweep, flags_of
from arcturus.sweeps.space import Choice, Range, Search, Value
from arcturus.telling import say

SCORING = ("--episodes", "30")  # of the last comparison, where the file says nothing
STARTUP = 5  # trials that end before any is stopped early
DEALS, RARE = 20_000, 0.025  # of the permutation test, and what it calls better


class Driver(Protocol):
    """What a search needs of what runs its cells (engine.Drive)."""

    codes: dict[str, int]  # cell -> the code with which it has ended
    slots: int  # cells at once

    def halt(self, names: Sequence[str]) -> None: ...


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as e:
        raise EnvironmentProblem(
            f"a search needs Optuna, which can't be imported: {e}", where="search", fix="pip install 'arcturus[search]'"
        ) from e
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Whoever searches in a folder; ConfigError if another process does."""
    with open(out / STATE / "search.lock", "w") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigError(f"another process is searching in {out}", where="--out", fix="wait for it, or stop it") from e
        yield


def setting(config: RunConfig, flag: str) -> tuple[str, str, Any]:
    """Part, field and value of what a flag sets: agent.learning-rate -> agent, learning_rate, 0.001."""
    from arcturus.scripts.train_agent import short_flags

    name = short_flags().get(f"--{flag}", f"--{flag}").removeprefix("--").replace("-", "_")
    part, dot, field = name.partition(".")
    part, field = (part, field) if dot else ("run", name)
    return part, field, getattr(getattr(config, part), field)


def preset_of(sweep: Sweep) -> RunConfig:
    """What a cell trains with before anything is searched."""
    from arcturus.scripts.train_agent import parse

    first = sweep.cells[0]
    device = [] if sweep.gpus or "--device" in first.flags else ["--device", "cpu"]  # as its cells see it
    return parse(first.agent, ["--env", first.env, *first.flags, *device])


def fitted(sweep: Sweep, search: Search, base: RunConfig) -> Search:
    """The search with ranges of numbers as the settings are, whole or not; ConfigError for what can't be searched or scored."""
    if sweep.evaluate is None and not base.eval_every:
        fix = "write evaluate: {episodes: 20}, or an eval-every above 0"
        raise ConfigError("the trials of this search would have no score", where=sweep.where, fix=fix)
    if sweep.evaluate is not None and "--checkpoint" in sweep.evaluate:
        raise ConfigError("a trial is scored at its last checkpoint", where=sweep.where, fix="leave evaluate.checkpoint out")
    if search.prune and not base.eval_every:
        fix = "write search.prune: false, or an eval-every above 0"
        raise ConfigError("trials are pruned by evaluations in training, and these have none", where=sweep.where, fix=fix)
    settings: dict[str, Range | Choice] = {}
    for name, space in search.settings.items():
        try:
            own = setting(base, name)[2]
        except AttributeError as e:
            raise ConfigError(f"{name} can't be searched", where=sweep.where, fix="search settings of agent., env. or the run") from e
        if isinstance(space, Range) and isinstance(own, float):
            space = Range(float(space.low), float(space.high), space.log)
        elif isinstance(space, Range) and space.low % 1 == space.high % 1 == 0:
            space = Range(int(space.low), int(space.high), space.log)
        settings[name] = space
    return replace(search, settings=settings)


def changed(base: RunConfig) -> dict[str, dict[str, Any]]:
    """The settings in which a run is not as its preset has it, as a file of settings holds them."""
    plain = resolve(base.agent_name, preset=base.preset, env={"id": base.env.id}, run={"device": base.run.device}).to_mapping()
    mine, out = base.to_mapping(), dict[str, dict[str, Any]]()
    for part in ("agent", "env", "run"):
        differ = {k: v for k, v in mine[part].items() if plain[part].get(k) != v and k not in ("name", "id", "seed", "run_dir", "device")}
        out |= {part: differ} if differ else {}
    return out


def by_chance(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """How often runs that are dealt to two groups at random, within each environment, differ as much in favour of the first: a one-sided
    permutation test of the difference of means (Fisher 1935), over DEALS random deals.  Of each environment its runs' scores."""
    rng, dealt = np.random.default_rng(0), np.zeros(DEALS)
    for a, b in zip(first, second, strict=True):
        every = rng.permuted(np.tile([*a, *b], (DEALS, 1)), axis=1)
        dealt += every[:, : len(a)].mean(1) - every[:, len(a) :].mean(1)
    seen = sum(float(np.mean(a) - np.mean(b)) for a, b in zip(first, second, strict=True))
    return float((1 + (dealt >= seen - 1e-9).sum()) / (1 + DEALS))


class Searching:
    """The cells of a search, one trial after the other (engine.Drive asks for more).  base: the preset's settings."""

    def __init__(self, sweep: Sweep, base: RunConfig):
        if sweep.search is None:
            raise ValueError("this sweep searches nothing")
        self.optuna, self.sweep, self.search, self.base = import_optuna(), sweep, sweep.search, base
        self.study = self._open()
        states, half = self.optuna.trial.TrialState, 0
        for trial in self.study.get_trials(deepcopy=False):  # of a process that was killed while Optuna wrote down the settings
            if trial.state == states.RUNNING and set(trial.params) != set(self.search.settings):
                self.study.tell(trial.number, state=states.FAIL)
            half += trial.state != states.WAITING and set(trial.params) != set(self.search.settings)
        ended = self.study.get_trials(deepcopy=False)
        self.asked = sum(trial.state != states.WAITING for trial in ended) - half
        self.live = [trial.number for trial in ended if trial.state == self.optuna.trial.TrialState.RUNNING]
        self.going_on = list(self.live)  # their cells are there already
        self.compared: tuple[list[Cell], list[Cell]] | None = None

    def _open(self) -> Any:
        path = self.sweep.out / STATE / "search.log"
        if path.exists():  # of a process that was killed while it wrote: Optuna would add the next line to half a line
            data = path.read_bytes()
            os.truncate(path, data.rfind(b"\n") + 1)
        journal = self.optuna.storages.JournalStorage(self.optuna.storages.journal.JournalFileBackend(str(path)))
        spared = self.base.run.steps // max(self.base.eval_every, 1) // 3  # evaluations: the first say little
        median = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=spared)
        pruner = median if self.search.prune else self.optuna.pruners.NopPruner()
        study = self.optuna.create_study(
            study_name="search", storage=journal, direction="maximize", pruner=pruner, load_if_exists=True
        )
        if not study.get_trials(deepcopy=False):
            own = {name: setting(self.base, name)[2] for name in self.search.settings}
            if outside := [name for name, value in own.items() if value not in self.search.settings[name]]:
                say(f"the preset's {outside[0]}, {own[outside[0]]}, is not among what is tried, so the preset is no trial")
            else:
                study.enqueue_trial(own)
        return study

    # -- trials ----------------------------------------------------------------------------------------------------------------

    def more(self, driver: Driver) -> list[Cell]:
        """Tells Optuna what is known, and returns the cells to be started now."""
        new = [cell for number in self.going_on for cell in self.cells(number)]
        self.going_on = []
        for number in list(self.live):
            if all(cell not in new for cell in self.cells(number)):
                self._follow(number, driver)
        while self.asked < self.search.trials and len(self.live) * len(self.sweep.cells) < driver.slots:
            new += self._ask()
        if not self.live and self.asked >= self.search.trials and self.compared is None and self.search.confirm:
            self.compared = self._compare()
            new += [*self.compared[0], *self.compared[1]]
        return new

    def _ask(self) -> list[Cell]:
        kinds = self.optuna.distributions
        spaces: dict[str, Any] = {}
        for name, space in self.search.settings.items():
            if isinstance(space, Choice):
                spaces[name] = kinds.CategoricalDistribution(space.values)
            else:
                whole = isinstance(space.low, int) and isinstance(space.high, int)
                spaces[name] = (kinds.IntDistribution if whole else kinds.FloatDistribution)(space.low, space.high, log=space.log)
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.asked)
        number = self.study.ask(spaces).number
        self.asked += 1
        self.live.append(number)
        return self.cells(number)

    def cells(self, number: int) -> list[Cell]:
        return self._with(f"t{number:03d}", self.study.get_trials(deepcopy=False)[number].params, self.sweep.cells)

    def _with(self, name: str, params: Mapping[str, Value], cells: Sequence[Cell]) -> list[Cell]:
        return [replace(cell, name=f"{name}-{cell.name}", flags=(*cell.flags, *flags_of(params))) for cell in cells]

    def _follow(self, number: int, driver: Driver) -> None:
        """Ends a trial whose cells have ended, or that falls behind."""
        cells, states = self.cells(number), self.optuna.trial.TrialState
        codes = [driver.codes.get(cell.name) for cell in cells]
        if any(code in MACHINES for code in codes):
            self.live.remove(number)  # the same command goes on with it
        elif any(codes):
            self._end(number, states.FAIL, driver)
        elif None not in codes:
            self._falls_behind(number, cells)  # its last evaluations count for others, too; it has come to its end itself
            try:
                value = self._mean([self.score(cell) for cell in cells], cells)
            except ArcturusError as e:
                say(f"trial {number} can't be scored: {e.what}")
                self._end(number, states.FAIL, driver)
                return
            self.live.remove(number)
            self.study.tell(number, value)
            self.report()
        elif self._falls_behind(number, cells):
            self._end(number, states.PRUNED, driver)

    def _end(self, number: int, state: Any, driver: Driver) -> None:
        self.live.remove(number)
        self.study.tell(number, state=state)  # first: a cell that is halted is never gone on with
        driver.halt([cell.name for cell in self.cells(number)])
        self.report()

    def _falls_behind(self, number: int, cells: Sequence[Cell]) -> bool:
        """Tells Optuna the evaluations in training that all cells of the trial have had, and asks it about the newest."""
        frozen = self.study.get_trials(deepcopy=False)[number]
        trial = self.optuna.trial.Trial(self.study, frozen._trial_id)
        values, behind = [self._evaluations(cell) for cell in cells], False
        for at in range(len(frozen.intermediate_values), min(map(len, values))):
            trial.report(self._mean([each[at] for each in values], cells), at)
            behind = bool(trial.should_prune())
        return behind

    def _evaluations(self, cell: Cell) -> list[float]:
        try:
            rows = standing(read_metrics(Run(self.sweep.out / cell.name)))
            return [float(row[EVALUATED]) for row in rows if EVALUATED in row]
        except (ArcturusError, KeyError, TypeError, ValueError):
            return []  # it has hardly begun

    def score(self, cell: Cell) -> float:
        """By evaluate-agent if the sweep asks for it, else by the last evaluation in training."""
        return read_run(self.sweep.out / cell.name, cell.trusted).score.value

    def _mean(self, values: Sequence[float], cells: Sequence[Cell]) -> float:
        return float(np.mean([self._scaled(value, cell.env) for value, cell in zip(values, cells, strict=True)]))

    def _scaled(self, value: float, env: str) -> float:
        """What is averaged: the score, on one scale if there are several environments."""
        if self.search.scale:
            zero, one = self.search.scale[env]
            return (value - zero) / (one - zero)
        if len({cell.env for cell in self.sweep.cells}) == 1:
            return value
        from arcturus.envs.atari import games
        from arcturus.scoring.statistics import human_normalised

        share = human_normalised(games().get(env, ""), value)
        if share is None:
            raise ConfigError(f"no human score of {env} was published", where="search", fix="write search.scale")
        return share

    # -- what comes out --------------------------------------------------------------------------------------------------------

    def best(self) -> Any | None:
        """The best trial that was tried to its end."""
        ended = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))
        return max(ended, key=lambda trial: trial.value, default=None)

    def _compare(self) -> tuple[list[Cell], list[Cell]]:
        """Cells of the best settings and of the preset's, on seeds that no trial has seen; none if the preset is the best."""
        best = self.best()
        if best is None or all(setting(self.base, name)[2] == value for name, value in best.params.items()):
            return [], []
        first = max(cell.seed for cell in self.sweep.cells) + 1
        alike = {cell.env: cell for cell in self.sweep.cells}.values()
        fresh = [
            replace(cell, seed=seed, name=cell.name.removesuffix(f"s{cell.seed}") + f"s{seed}")
            for cell in alike
            for seed in range(first, first + self.search.confirm)
        ]
        return self._with(f"best-t{best.number:03d}", best.params, fresh), self._with("preset", {}, fresh)

    def commands(self, cell: Cell) -> list[list[str]]:
        compared = self.compared is not None and any(cell in cells for cells in self.compared)
        return (replace(self.sweep, evaluate=self.sweep.evaluate or SCORING) if compared else self.sweep).commands(cell)

    def line(self) -> str:
        best = self.best()
        return f"{self.asked - len(self.live)} of {self.search.trials} trials" + (f", best {best.value:,.2f}" if best else "")

    def importances(self) -> dict[str, float]:
        """How much each setting decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023)."""
        if len(self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))) < STARTUP:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self.optuna.importance.get_param_importances(
                    self.study, evaluator=self.optuna.importance.PedAnovaImportanceEvaluator()
                )
            except (RuntimeError, ValueError):
                return {}
        return {name: float(share) for name, share in found.items()}

    def verdict(self, driver: Driver) -> dict[str, Any] | None:
        """The best settings beside the preset's on fresh seeds; None unless all these runs are done."""
        if not self.compared or not self.compared[0] or any(driver.codes.get(c.name) != 0 for cells in self.compared for c in cells):
            return None
        envs = dict.fromkeys(cell.env for cell in self.compared[0])
        best, preset = ([[self._scaled(self.score(c), c.env) for c in cells if c.env == env] for env in envs] for cells in self.compared)
        first, second = (np.mean([x.mean(-1) for x in resampled(of, seed=i)], axis=0) for i, of in enumerate((best, preset)))
        interval = percentiles(first - second) if self.search.confirm >= ENOUGH else None
        chance = by_chance(best, preset)
        told = {"seeds": sorted({cell.seed for cell in self.compared[0]}), "envs": list(envs), "best": best, "preset": preset}
        told |= {"difference": float(np.mean(best) - np.mean(preset)), "probability": float(improvement(best, preset))}
        return told | {"ci95": interval, "by_chance": chance, "better": chance <= RARE}

    def report(self, verdict: dict[str, Any] | None = None) -> None:
        """DIR/best.yaml, which --config reads, and DIR/search.json."""
        best, trials = self.best(), self.study.get_trials(deepcopy=False)
        told = [
            {"number": t.number, "state": t.state.name.lower(), "value": t.value, "settings": t.params}
            | {"evaluations": [t.intermediate_values[at] for at in sorted(t.intermediate_values)]}
            for t in trials
        ]
        record = {"trials": told, "importances": self.importances(), "best": None if best is None else best.number, "fresh": verdict}
        write_atomically(self.sweep.out / "search.json", json.dumps(record, indent=1) + "\n")
        if best is not None:
            import yaml

            parts = changed(self.base)
            for flag, value in best.params.items():
                part, field, _ = setting(self.base, flag)
                parts.setdefault(part, {})[field] = value
            envs = ", ".join(dict.fromkeys(cell.env for cell in self.sweep.cells))
            head = f"# {self.base.agent_name} on {envs}: trial {best.number}, {best.value:,.4g}, the best of {len(trials)}\n"
            settings = {"preset": self.base.preset, **parts}
            write_atomically(self.sweep.out / "best.yaml", head + yaml.safe_dump(settings, sort_keys=False))

    def pruned(self) -> set[str]:
        """Cells that are not gone on with."""
        trials = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.PRUNED,))
        return {cell.name for trial in trials for cell in self.cells(trial.number)}

    def failed(self) -> int:
        """Trials that failed by themselves."""
        trials = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.FAIL,))
        return sum(set(trial.params) == set(self.search.settings) for trial in trials)

    def end(self, driver: Driver) -> None:
        """When no cell is left: the last report, a plot, and what was found."""
        verdict = self.verdict(driver)
        self.report(verdict)
        best = self.best()
        if best is None:
            say("no trial was tried to its end")
            return
        from arcturus.pictures.search import search_picture
        from arcturus.pictures.style import save

        save(search_picture(json.loads((self.sweep.out / "search.json").read_text()), self.search), self.sweep.out / "search.png")
        say(f"best of {self.asked} trials: {best.value:,.2f}, trial {best.number}: {self.sweep.out / 'best.yaml'}")
        for name, share in self.importances().items():
            say(f"  {name} = {best.params[name]}, importance {share:.2f}")
        if verdict:
            means = f"best settings {np.mean(verdict['best']):,.2f}, preset {np.mean(verdict['preset']):,.2f}"
            interval = verdict["ci95"]
            inside = "too few seeds for an interval" if interval is None else f"{interval[0]:,.2f}, {interval[1]:,.2f}"
            told = "better" if verdict["better"] else "not shown to be better"
            difference = f"difference {verdict['difference']:,.2f} [{inside}], by chance {100 * verdict['by_chance']:.1f}%"
            say(f"on fresh seeds {', '.join(map(str, verdict['seeds']))}: {means}, {difference}: {told}")
        elif self.compared == ([], []):
            say("the preset's settings are the best of these")
