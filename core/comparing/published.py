"""Published Atari scores that stand beside one's own, each with its protocol and source, and the sets of games that papers use.

published_scores.csv: source, agent, agent steps of training, game, score; for the record the standard deviation as published, too (of
mrq over seeds, of nature over episodes), and the number of seeds where known.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from arcturus.config import parse_value, split_names
from arcturus.envs.atari import games
from arcturus.errors import ConfigError, nearest
from arcturus.scoring.statistics import human_normalised, iqm, mean, optimality_gap, published

# Kaiser et al. 2019, arXiv:1903.00374 ("Atari 100k")
ATARI26 = (
    "Alien Amidar Assault Asterix BankHeist BattleZone Boxing Breakout ChopperCommand CrazyClimber DemonAttack Freeway Frostbite Gopher "
    "Hero Jamesbond Kangaroo Krull KungFuMaster MsPacman Pong PrivateEye Qbert RoadRunner Seaquest UpNDown"
)
MNIH2013 = "BeamRider Breakout Enduro Pong Qbert Seaquest SpaceInvaders"  # Mnih et al. 2013, table 1
# Atari-5 (Aitchison et al. 2023, arXiv:2210.02019): weights of log10(1 + per cent of human) whose sum predicts the same of the median over
# 57 games; fitted here as there, by least squares without an intercept, to the 43 algorithms of the authors' dataset with 54 games or more
ATARI5 = {"BattleZone": 0.3781, "DoubleDunk": 0.0665, "NameThisGame": 0.3168, "Phoenix": 0.1256, "Qbert": 0.0785}
FAR_OFF = "it can be far off: for MR.Q after 2.5 million steps it says 64%, and the median over 57 games is 96%"


OF_MEANS = (
    "IQM and optimality gap of published scores are over one mean a game, and those of runs over runs: for MR.Q after 500,000 steps the "
    "IQM is 45.5% over its runs and 49.6% over its means"
)


ALL_GAMES = 57  # of those with human scores


class Published(NamedTuple):
    """One agent's scores after so many agent steps; 0 steps: a human's.  scores: environment id -> score."""

    source: str
    agent: str
    steps: int
    scores: dict[str, float]

    @property
    def name(self) -> str:
        return self.agent + (f", {self.steps:,} steps" if self.steps else "")

    def human_normalised(self, env: str) -> float | None:
        return human_normalised(games().get(env, ""), self.scores[env])


def env_id(game: str) -> str:
    return f"ALE/{game}-v5"


@cache
def game_sets() -> dict[str, tuple[str, ...]]:
    """Name of a set -> environment ids.  atari57: those with published random and human scores."""
    known = {name: env for env, name in games().items()}
    sets = {"atari26": ATARI26.split(), "atari5": list(ATARI5), "mnih2013": MNIH2013.split()}
    return {"atari57": tuple(sorted(known[name] for name in published()))} | {
        name: tuple(map(env_id, members)) for name, members in sets.items()
    }


def game_set(name: str) -> tuple[str, ...]:
    if name not in game_sets():
        raise ConfigError(f"there is no set of games {name!r}", where="--games", fix=nearest(name, game_sets(), "sets"))
    return game_sets()[name]


@cache
def sources() -> dict[str, dict[str, str]]:
    """Name -> title, protocol, told."""
    return parse_value((files("arcturus.comparing") / "published_sources.yaml").read_text(encoding="utf-8"))


@cache
def everything() -> tuple[Published, ...]:
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    text = (files("arcturus.comparing") / "published_scores.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        found.setdefault((row["source"], row["agent"], int(row["steps"])), {})[env_id(row["game"])] = float(row["score"])
    return tuple(Published(*key, scores) for key, scores in found.items())


def asked_for(text: str) -> list[str]:
    """The sources of --beside a,b."""
    names = split_names(text)
    if wrong := next((name for name in names if name not in sources()), ""):
        raise ConfigError(f"no scores of {wrong!r} come along", where="--beside", fix=nearest(wrong, sources(), "sources"))
    if not names:
        raise ConfigError("--beside names no source", where="--beside", fix="write --beside " + ",".join(sources()))
    return names


def beside(names: Iterable[str], envs: Iterable[str], steps: float) -> list[Published]:
    """Scores of these sources on these environments.  Of an agent with several budgets, the one nearest to the steps."""
    envs, out = set(envs), list[Published]()
    for name in names:
        agents: dict[str, list[Published]] = {}
        for one in everything():
            if one.source == name:
                agents.setdefault(one.agent, []).append(one)
        for several in agents.values():
            best = min(several, key=lambda one: abs(math.log(max(one.steps, 1) / max(steps, 1))))
            kept = {env: score for env, score in best.scores.items() if env in envs}
            if kept:
                out.append(best._replace(scores=kept))
    return out


def over_games(one: Published, wanted: Sequence[str]) -> dict[str, Any] | None:
    """Its human-normalised scores over the games wanted that it has; None of fewer than two.  One number a game: what was published."""
    found = {env: share for env in wanted if env in one.scores and (share := one.human_normalised(env)) is not None}
    if len(found) < 2:
        return None
    shares = list(found.values())
    told = {"source": one.source, "agent": one.agent, "steps": one.steps, "games": list(found)}
    summaries: dict[str, Callable[[list[float]], Any]] = {"mean": mean, "median": np.median, "iqm": iqm, "optimality_gap": optimality_gap}
    return told | {name: float(statistic(shares)) for name, statistic in summaries.items()}


def atari5(scores: Mapping[str, float]) -> float | None:
    """The median over 57 games that Atari-5 predicts from human-normalised scores of its five; None if one is missing."""
    shares = [scores.get(env_id(game)) for game in ATARI5]
    if any(share is None for share in shares):
        return None
    logs = [weight * math.log10(1 + 100 * max(share or 0.0, 0.0)) for weight, share in zip(ATARI5.values(), shares, strict=True)]
    return (10 ** sum(logs) - 1) / 100


def protocol_notes(shown: Iterable[Published], ours: Iterable[str]) -> list[str]:
    """A line for each source: what its scores are, and whether ours were made under the same protocol; and how their summaries differ."""
    out = []
    for name in dict.fromkeys(one.source for one in shown):
        about = sources()[name]
        other = sorted({protocol for protocol in ours if protocol != about["protocol"]})
        differs = f" Its protocol ({about['protocol']}) is not that of these runs ({', '.join(other)})." if other else ""
        out.append(f"{name}: {about['title']}; {about['told']}.{differs}")
    return [*out, OF_MEANS] if out else []
