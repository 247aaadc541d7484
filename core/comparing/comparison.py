"""Runs beside each other, as numbers: what each scored, groups over seeds, and games together (Agarwal et al. 2021,
arXiv:2108.13264).

A run's score is one number, the mean over the episodes of one evaluation.  Intervals are over runs, as these are what is
repeated. Reads run folders and never writes into them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arcturus.comparing.published import atari5
from arcturus.envs import is_atari
from arcturus.errors import ArcturusError, CheckpointError, ConfigError
from arcturus.runs.folder import Run, read_metrics, seconds_in
from arcturus.runs.groups import environment_of, grouped
from arcturus.runs.settings import RunConfig
from arcturus.scoring.keeping import whole
from arcturus.scoring.statistics import (
    REPLICATES,
    human_normalised,
    improvement,
    iqm,
    mean,
    median_of_tasks,
    optimality_gap,
    percentiles,
    resampled,
    run_percentiles,
    stratified_interval,
)
from arcturus.telling import say, shortened, typed

ENOUGH = 3  # seeds; of fewer no interval is given
FEW, NAME = 3, 40  # names on a line, and their characters
POINTS, POINTS_OVER_GAMES = 200, 50  # of a curve
SAME_CLOCK = (1.0, 0.01)  # seconds, and share, by which two clocks may differ over an unbroken stretch
RETURN, EVALUATED = "charts/episodic_return", "eval/episodic_return_mean"
Rows = list[dict[str, Any]]  # of metrics.jsonl


class Score(NamedTuple):
    value: float  # mean over episodes
    step: int  # agent steps of training
    episodes: int
    by: str  # evaluate-agent, or training: the newest evaluation during it
    protocol: str
    policy: str | None  # greedy, sample or epsilon=X; None of evaluations in training: the protocol's own, which they don't log


class Scored(NamedTuple):
    """A run that can be compared."""

    path: Path
    config: RunConfig
    score: Score
    clock: tuple[np.ndarray, np.ndarray]  # agent steps [K], minutes of running [K]
    rows: Rows
    machine: str
    version: str  # of arcturus, which made it
    core_seconds: float | None = None  # of the run's processes up to the last checkpoint; None of runs made before they were counted

    @property
    def step(self) -> int:
        return self.score.step

    @property
    def minutes(self) -> float:
        """Of training, up to where it was scored."""
        return float(np.interp(self.step, *self.clock))

    @property
    def human_normalised(self) -> float | None:
        """0 random, 1 human; None off Atari and where no human score was published."""
        if not is_atari(self.config.env.id):
            return None
        from arcturus.envs.atari import games

        return human_normalised(games().get(self.config.env.id, ""), self.score.value)


class Group(NamedTuple):
    """Runs alike but for the seed, of one environment."""

    name: str
    differs: dict[str, Any]  # settings in which it is not as other groups of its kind
    runs: list[Scored]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.config.run.seed for run in self.runs})

    @property
    def scores(self) -> list[float]:
        return [run.score.value for run in self.runs]


# -- one run -------------------------------------------------------------------------------------------------------------------


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders among these and in them, each once, except those that another process is making (.tmp-*).  A path
    without any is skipped with a message; ConfigError if no path has any.

    Plain files are passed over: a shell's glob names them beside the folders."""
    found: dict[Path, Path] = {}
    empty: list[str] = []
    for path in paths:
        if path.is_file():
            continue
        inside = [path] if (path / "run.json").is_file() else sorted(p.parent for p in path.glob("**/run.json"))
        inside = [p for p in inside if p == path or not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not inside:
            empty.append(f"{path} {'contains no run folder' if path.is_dir() else 'is not a folder'}")
        found |= {p.resolve(): found.get(p.resolve(), p) for p in inside}
    if not found and empty:
        raise ConfigError(empty[0], where="RUN", fix="give run folders that train-agent made, or a folder that contains them")
    if not found:
        raise ConfigError("these are all files, but runs are folders", where="RUN", fix="give run folders that train-agent made")
    for line in empty:
        say(f"warning: {line}")
    return list(found.values())


def read_runs(
    paths: Sequence[Path], trust: tuple[str, ...] = (), curves_alone: bool = False
) -> tuple[list[Scored], list[tuple[Path, str]]]:
    """The runs that can be compared, and the others with the reason why not.  If none can be, the first one's error is raised.
    curves_alone: a run needs no score (it has nan then), as its curve can be drawn without."""
    scored: list[Scored] = []
    left: list[tuple[Path, ArcturusError]] = []
    for path in paths:
        try:
            scored.append(read_run(path, trust, curves_alone))
        except ArcturusError as e:
            left.append((path, e))
    if not scored:
        raise left[0][1]
    return scored, [(path, f"{e.what}" + (f" ({e.fix})" if e.fix else "")) for path, e in left]


def read_run(path: Path, trust: tuple[str, ...] = (), curves_alone: bool = False) -> Scored:
    """ConfigError for a run without any score, CheckpointError for one that can't be read."""
    run = Run(path)
    config, about = run.config(trust), run.known
    rows = read_metrics(run) if (path / "metrics.jsonl").exists() else []
    try:
        rows = standing(rows)
        for row in rows:
            _finite(row["step"]), _finite(row.get(RETURN, 0.0)), _finite(row.get(EVALUATED, 0.0))
        score = evaluated(path, about, config) or watched(rows, config)
        if score is None and curves_alone and rows:
            score = Score(math.nan, int(rows[-1]["step"]), 0, "nothing", "-", None)
        clock = running_minutes(rows)
        version = str(about.get("versions", {}).get("arcturus", "unknown"))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        raise CheckpointError(f"{path} holds no scores that can be read: {e!r}"[:300], where="RUN") from e
    if score is None:
        raise ConfigError(f"{path} has no score yet", where="RUN", fix=f"run evaluate-agent {typed(path)}, or leave it out")
    machine = f"{about.get('device', 'unknown')} on {about.get('machine', 'unknown')}"
    return Scored(path, config, score, clock, rows, machine, version, seconds_in(about))


def standing(rows: Rows) -> Rows:
    """The lines still valid: not followed by a line at which the run began again from an earlier step."""
    kept: Rows = []
    for row in reversed(rows):
        if not kept or row["step"] <= kept[-1]["step"]:
            kept.append(row)
    return kept[::-1]


def evaluated(path: Path, about: dict[str, Any], config: RunConfig) -> Score | None:
    """The score by evaluate-agent's newest evaluation of the last checkpoint, with its own number of memory slots and without an attack."""
    last = about.get("checkpoint", about.get("steps"))
    for _, report in whole(path):
        if report["checkpoint"] == last and "memory_slots" not in report:
            told = report["score"]
            episodes, protocol, policy = int(told["episodes"]), str(report["protocol"]), str(report["policy"])
            return Score(_finite(told["mean"]), int(last), episodes, "evaluate-agent", protocol, policy)
    return None


def watched(rows: Rows, config: RunConfig) -> Score | None:
    """By the newest evaluation during training."""
    row = next((row for row in reversed(rows) if EVALUATED in row), None)
    if row is None:
        return None
    protocol = config.env.protocol if is_atari(config.env.id) else "-"
    return Score(_finite(row[EVALUATED]), int(row["step"]), config.run.eval_episodes, "training", protocol, None)


def running_minutes(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Agent steps [K] and the minutes of running that they took [K], evaluations during training included; from (0, 0).

    Each log line holds the speed since the line before by the process's own clock, and the time of day.  If both agree on how
    long a stretch took, that time counts.  If not, the run was stopped and resumed in between: how much of the stretch each
    process ran is not logged, and it counts as long as its steps take elsewhere in the run (the median), at most the time
    that passed.  So neither the pause counts, nor the time the resumed process took to return to the run's
    state.
    """
    logged = [row for row in rows if row.get("charts/SPS")]
    steps = np.array([0, *(_finite(row["step"]) for row in logged)])
    if not logged:
        return steps, np.zeros(1)
    advanced, passed = np.diff(steps), np.diff([_finite(row["time"]) for row in logged], prepend=-np.inf)
    took = advanced / np.array([_finite(row["charts/SPS"]) for row in logged])
    resumed = abs(passed - took) > SAME_CLOCK[0] + SAME_CLOCK[1] * took
    resumed[0] = False  # nothing came before
    pace = np.median((took / np.maximum(advanced, 1))[~resumed])
    by_pace = pace * advanced
    took = np.where(resumed, np.where(passed < 0, by_pace, np.minimum(by_pace, passed)), took)  # < 0: the clock was set back
    return steps, np.concatenate([[0.0], took.cumsum() / 60])


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


# -- groups of runs ------------------------------------------------------------------------------------------------------------


def environments(runs: Sequence[Scored]) -> dict[str, list[Group]]:
    """Environment (its id and options) -> its groups; a group is called the same in all of them."""
    out: dict[str, list[Group]] = {environment_of(run.config): [] for run in runs}
    for name, differs, places in grouped(runs):
        for env, groups in out.items():
            inside = [runs[i] for i in places if environment_of(runs[i].config) == env]
            if inside:
                groups.append(Group(name, differs, inside))
    return out


def summarise(group: Group) -> dict[str, Any]:
    """A line of a table.  Intervals are None of fewer than ENOUGH seeds."""
    scores = group.scores
    enough = len(group.seeds) >= ENOUGH
    of_human = [run.human_normalised for run in group.runs]
    return {
        "group": group.name,
        "differs": group.differs,
        "seeds": group.seeds,
        "steps": [min(run.step for run in group.runs), max(run.step for run in group.runs)],
        "mean": float(mean(scores)),
        "mean_ci95": stratified_interval([scores]) if enough else None,
        "iqm": float(iqm(scores)),
        "iqm_ci95": stratified_interval([scores], iqm) if enough else None,
        "percentiles_5_95": run_percentiles(scores) if enough else None,
        "human_normalised": None if None in of_human else float(np.mean([x for x in of_human if x is not None])),
        "minutes": float(np.mean([run.minutes for run in group.runs])),
        "runs": [
            {"path": str(run.path), "seed": run.config.run.seed, **run.score._asdict()}
            | {"human_normalised": run.human_normalised, "minutes": run.minutes, "core_seconds": run.core_seconds}
            | {"machine": run.machine}
            for run in group.runs
        ],
    }


def aggregate(tables: dict[str, list[Group]]) -> list[dict[str, Any]]:
    """For every group with human-normalised scores on two or more games: their mean and IQM over all games and seeds, with
    stratified bootstrap intervals (a game is a stratum); None if a game has fewer than ENOUGH seeds.  ipr90: the range from a game's 5th
    to its 95th run, a mean over games (Tanaka & Mahmood 2026, arXiv:2606.06746).  atari5: the median over 57 games that five of
    these predict, None if one of the five is missing.  scores: game -> its runs'."""
    found: dict[str, dict[str, Group]] = {}
    for env, groups in tables.items():
        for group in groups:
            if all(run.human_normalised is not None and not run.config.env.options for run in group.runs):
                found.setdefault(group.name, {})[env] = group
    out = []
    for name, by_game in found.items():
        if len(by_game) < 2:
            continue
        strata = [[float(run.human_normalised or 0.0) for run in group.runs] for group in by_game.values()]
        scores = [x for scores in strata for x in scores]
        seeds = [len(group.seeds) for group in by_game.values()]
        enough = min(seeds) >= ENOUGH
        out.append(
            {
                "group": name,
                "games": list(by_game),
                "seeds": seeds,
                "runs": [len(scores) for scores in strata],
                "mean": float(mean(scores)),
                "mean_ci95": stratified_interval(strata, mean) if enough else None,
                "iqm": float(iqm(scores)),
                "iqm_ci95": stratified_interval(strata, iqm) if enough else None,
                "median": float(median_of_tasks(strata)),
                "median_ci95": percentiles(median_of_tasks(resampled(strata))) if enough else None,
                "optimality_gap": float(optimality_gap(scores)),
                "optimality_gap_ci95": stratified_interval(strata, optimality_gap) if enough else None,
                "ipr90": float(np.mean([np.diff(run_percentiles(runs)) for runs in strata])) if enough else None,
                "atari5": atari5({env: float(mean(runs)) for env, runs in zip(by_game, strata, strict=True)}),
                "scores": dict(zip(by_game, strata, strict=True)),
            }
        )
    return out


def improvements(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every two of aggregate()'s lines: how probably the first scores higher than the second on the games that both played."""
    out = []
    for a, b in itertools.combinations(lines, 2):
        games = [game for game in a["scores"] if game in b["scores"]]
        if not games:
            continue
        first, second = ([line["scores"][game] for game in games] for line in (a, b))
        enough = min(*a["seeds"], *b["seeds"]) >= ENOUGH
        drawn = improvement(resampled(first, seed=0), resampled(second, seed=1)) if enough else None
        told = {"first": a["group"], "second": b["group"], "games": games, "probability": float(improvement(first, second))}
        out.append(told | {"ci95": None if drawn is None else percentiles(drawn)})
    return out


def few(names: Sequence[str], between: str = ", ") -> str:
    """Names on one line, however many there are."""
    shown = between.join(shortened(name, NAME) for name in names[:FEW])
    return shown + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def cautions(groups: Sequence[Group]) -> list[str]:
    """Reasons why the numbers of one table may not be comparable, a line each."""
    runs = [run for group in groups for run in group.runs]
    out = []
    inside = sum(run.score.by == "training" for run in runs)
    if inside == len(runs):
        out.append("scores are from the newest evaluations during training; evaluate-agent RUN scores on fresh seeds")
    elif inside:
        out.append(f"{inside} of {len(runs)} scores are from the newest evaluation during training, the others from evaluate-agent")
    for what in ("protocol", "policy"):
        users: dict[str, list[str]] = {}
        for group in groups:
            for value in dict.fromkeys(getattr(run.score, what) for run in group.runs):
                if value is not None:
                    users.setdefault(value, []).append(group.name)
        if len(users) > 1:
            told = "; ".join(f"{value} ({few(names, ' | ')})" for value, names in users.items())
            out.append(f"scored under different {'policies' if what == 'policy' else 'protocols'}: {told}")
    again = [group.name for group in groups if len(group.seeds) < len(group.runs)]
    if again:
        out.append(f"several runs have the same seed, so they are not independent: {few(again, '; ')}")
    versions = sorted({run.version for run in runs})
    if len(versions) > 1:
        out.append(f"made by different versions of arcturus: {', '.join(versions)}; CHANGELOG.md says what trains differently")
    if len({run.machine for run in runs}) > 1:
        out.append("minutes were measured on different machines or devices")
    return out


def aggregate_cautions(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of aggregate()'s lines."""
    out = []
    if len({frozenset(line["games"]) for line in lines}) > 1:
        out.append("these groups didn't play the same games")
    if any(len(set(line["runs"])) > 1 for line in lines):
        out.append("a game with more runs than others counts for more")
    if len({count for line in lines for count in line["runs"]}) > 1:
        out.append("IPR-90 of few runs goes from the worst to the best and grows with their number, which isn't the same here")
    return out


# -- curves over seeds ---------------------------------------------------------------------------------------------------------


def on_common_grid(curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Curves (x [K], y [K]), x rising, interpolated on one grid [points]: [len(curves), points].

    The grid reaches from the latest beginning to the earliest end, so nothing is extrapolated; empty if they don't
    overlap.
    """
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(low, high, points) if low < high else np.empty(0)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def curve(run: Scored, tag: str, clock: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Values of a tag over agent steps, or over minutes of running; None where there are none."""
    told = np.array([(row["step"], row[tag]) for row in run.rows if tag in row], float)
    if not len(told):
        return None
    x, y = told.T
    return (np.interp(x, *run.clock) if clock else x), y


def tag_of(groups: Sequence[Group]) -> str:
    """What is drawn of an environment: evaluations in training if all its runs have two or more, else returns in training if
    all log them.

    Evaluations are comparable with scores; the return of the last 100 training episodes lags behind them, and includes
    exploration.
    """
    runs = [run for group in groups for run in group.runs]
    counts = [Counter(tag for row in run.rows for tag in (EVALUATED, RETURN) if tag in row) for run in runs]
    no_evaluations = any(count[EVALUATED] < 2 for count in counts)
    return RETURN if no_evaluations and all(count[RETURN] for count in counts) else EVALUATED


def curves_of(group: Group, tag: str, clock: bool) -> dict[str, Any]:
    """lines: each run's curve, as logged.  Of ENOUGH seeds also x [P], mean [P], low [P] and high [P]: the mean over seeds
    and its 95% bootstrap interval at each point of the common grid."""
    known = [found for run in group.runs if (found := curve(run, tag, clock)) is not None]
    out: dict[str, Any] = {"lines": [{"x": x.tolist(), "y": y.tolist()} for x, y in known]}
    if len(known) == len(group.runs) and len(group.seeds) >= ENOUGH:
        grid, values = on_common_grid(known)
        if len(grid):
            drawn = np.random.default_rng(0).integers(len(values), size=(REPLICATES, len(values)))  # the same runs at every point
            low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975], axis=0).tolist()
            out |= {"x": grid.tolist(), "mean": values.mean(0).tolist(), "low": low, "high": high}
    return out


# -- curves over games ---------------------------------------------------------------------------------------------------------


def iqm_curves(tables: Mapping[str, Sequence[Group]], clock: bool) -> dict[str, dict[str, Any]]:
    """Group -> IQM of human-normalised scores over games and seeds against agent steps, or minutes of running (sample efficiency, Agarwal
    et al. 2021, section 4.3): tag (what is averaged, the same for all), x [P], iqm [P], and low
    [P] and high [P], its 95% stratified bootstrap interval, where every game has ENOUGH seeds.  Groups on fewer than two games, and runs
    without a curve, are left out."""
    strata: dict[str, list[list[tuple[np.ndarray, np.ndarray]]]] = {}
    seeds: dict[str, int] = {}
    tag = tag_of([group for groups in tables.values() for group in groups])
    for env, groups in tables.items():
        for group in groups:
            curves = [found for run in group.runs if (found := _normalised_curve(env, run, tag, clock)) is not None]
            if len(curves) == len(group.runs):
                strata.setdefault(group.name, []).append(curves)
                seeds[group.name] = min(len(group.seeds), seeds.get(group.name, len(group.seeds)))
    out = {}
    for name, by_game in strata.items():
        grid, values = on_common_grid([curve for curves in by_game for curve in curves], POINTS_OVER_GAMES)
        if len(by_game) < 2 or not len(grid):
            continue
        out[name] = {"tag": tag, "x": grid.tolist(), "iqm": iqm(values.T).tolist()}
        if seeds[name] >= ENOUGH:
            rng, at, drawn = np.random.default_rng(0), 0, list[np.ndarray]()
            for curves in by_game:
                drawn.append(at + rng.integers(len(curves), size=(REPLICATES, len(curves))))
                at += len(curves)
            places = np.concatenate(drawn, axis=1)
            ends = np.array([percentiles(iqm(column[places])) for column in values.T])
            out[name] |= {"low": ends[:, 0].tolist(), "high": ends[:, 1].tolist()}
    return out


def _normalised_curve(env: str, run: Scored, tag: str, clock: bool) -> tuple[np.ndarray, np.ndarray] | None:
    found = curve(run, tag, clock)
    if found is None or run.human_normalised is None:
        return None
    from arcturus.envs.atari import games

    game = games()[run.config.env.id]
    zero, one = (human_normalised(game, x) or 0.0 for x in (0.0, 1.0))
    return found[0], zero + (one - zero) * found[1]
