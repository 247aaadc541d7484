"""games: measures by real emulation what is particular to each of ale-py's games, as JSON and as a page.

  python -m tools.games --page docs/games.md                      all 104 games: about an hour on one core
  python -m tools.games --games Pong,Breakout                     measures these two again and keeps the others
  python -m tools.games --only-page --page docs/games.md --merge FILE

Raw emulator, no sticky actions, every frame looked at; each game in a process of its own, as restoring a state has crashed ale-py.
--merge FILE adds what was measured elsewhere: {game: {floors: {protocol, episodes, random, constant, action}, note: text}}; it stays,
and so does the page's text before the table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
import numpy as np
from ale_py import Action, roms

from arcturus.config import user_path
from arcturus.envs.atari import games, open_emulator
from arcturus.errors import ConfigError, EnvironmentProblem, nearest
from arcturus.runs.files import write_atomically
from arcturus.scoring.statistics import published

CAP = 108_000  # emulator frames: the longest game of protocol v5
BETWEEN = 4_096  # frames between two states of NOOP play that are kept, to tell when a game died
FORK = 1_200  # frames of a course that is played to see whether actions still matter
PRESS = 4  # frames that a single press lasts; the screen is looked at as often
RANDOM, GAMES = 70_000, 6  # frames and games of random play at most; a third of the frames where lives don't count
RESETS, WATCH = 32, 200  # resets under v5, and agent steps of NOOP after each
STILL = 12  # as many new pictures more (or fewer) say that a press set a game going
HEADS = "| game | actions | lives | lives counts | waits for | NOOP play | screen | random, published | floors measured | notes |"


class GameLog(NamedTuple):
    """What was seen on the way."""

    frames: int
    over: bool
    rewards: list[tuple[int, float]]  # (frame, reward), those that aren't 0
    lives: list[tuple[int, int, int]]  # (frame, before, after): every change
    pictures: list[int]  # hash of every 4th frame's screen

    @property
    def events(self) -> int:
        return len(self.rewards) + len(self.lives) + self.over


def run(ale: Any, actions: Iterable[Any], start: int = 0) -> GameLog:
    """Plays one action a frame, to the end of the actions or of the game; frames are counted from `start`."""
    rewards, changes, pictures, lives, frame = [], [], [], ale.lives(), start
    for action in actions:
        reward, frame, before, lives = ale.act(action), frame + 1, lives, ale.lives()
        if reward:
            rewards.append((frame, float(reward)))
        if lives != before:
            changes.append((frame, before, lives))
        if frame % PRESS == 0:
            pictures.append(hash(ale.getScreen().tobytes()))
        if ale.game_over():
            break
    return GameLog(frame - start, bool(ale.game_over()), rewards, changes, pictures)


def held(actions: list[Any], seed: int, longest: int = 48) -> Iterator[Any]:
    """Random actions for ever, each held for 4 to `longest` frames."""
    rng = np.random.default_rng(seed)
    while True:
        yield from repeat(actions[rng.integers(len(actions))], int(rng.integers(1, longest // 4 + 1)) * 4)


def forks(ale: Any, state: Any, actions: list[Any], frames: int = FORK) -> tuple[GameLog, list[GameLog]]:
    """From one state: a course of NOOPs, and three of random actions and one of FIRE now and again."""
    fire = next((a for a in actions if a.name == "FIRE"), actions[0])
    presses = (fire if f % 60 < PRESS else actions[0] for f in range(frames))
    courses = []
    for plan in (repeat(actions[0]), *(held(actions, seed) for seed in (1, 2, 3)), presses):
        ale.restoreState(state)
        courses.append(run(ale, islice(plan, frames)))
    ale.restoreState(state)
    return courses[0], courses[1:]


def condition(ale: Any, state: Any, actions: list[Any], eventful: bool) -> str:
    """alive, dead or title: whether actions still matter.  eventful: after the reset the same actions bring rewards or cost lives."""
    still, courses = forks(ale, state, actions)
    if any(c.lives and c.lives[0][2] > c.lives[0][1] and not c.rewards for c in courses):
        return "title"  # a button began a new game: lives went up for nothing
    if eventful:
        return "alive" if any(c.events for c in courses) else "dead"
    return "alive" if any(c.pictures != still.pictures for c in courses) else "dead"


def raw(game: str) -> Any:
    """The bare emulator, without sticky actions, from seed 1."""
    ale = open_emulator(game)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 1)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return ale


def noop_facts(ale: Any, actions: list[Any], with_forks: bool, eventful: bool) -> dict[str, Any]:
    """NOOPs from the reset to the cap: where the game ends, and whether it is still one."""
    ale.reset_game()
    frame, courses, states = 0, list[GameLog](), [(0, ale.cloneState())]
    while frame < CAP and not ale.game_over():
        courses.append(run(ale, repeat(actions[0], min(BETWEEN, CAP - frame)), frame))
        frame += courses[-1].frames
        states.append((frame, ale.cloneState()))
    lives = [change for c in courses for change in c.lives]
    facts: dict[str, Any] = {"frames": frame, "score": sum(r for c in courses for _, r in c.rewards), "lives": lives[:20]}
    if ale.game_over() or not with_forks:
        return facts | {"condition": "over" if ale.game_over() else "?"}
    facts["condition"] = condition(ale, states[-1][1], actions, eventful)
    if facts["condition"] != "alive":
        low, high = 0, len(states) - 1  # alive at low, not at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if condition(ale, states[middle][1], actions, eventful) == "alive" else (low, middle)
        facts["died"] = [states[low][0], states[high][0]]
        if jumps := [f for f, before, after in lives if after - before > 1 and f > PRESS]:
            facts |= {"condition": "demonstration", "jump": jumps[0]}
    return facts


def random_facts(ale: Any, actions: list[Any], with_forks: bool, eventful: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random games: how lives() counts; and how long they are, and whether one that doesn't end is still a game."""
    used, ups, last, lengths = 0, 0, set(), []
    tails: list[tuple[int, bool]] = []  # of games that went on with lives 0: frames to the end, and whether actions mattered
    for seed in range(GAMES):
        ale.reset_game()
        at_reset = ale.lives()
        ale.act(actions[0])
        start = ale.lives()
        most = RANDOM if start > 1 else RANDOM // 3
        plan, frame, zero = held(actions, seed, 4 if seed % 2 else 48), 0, None
        while used < most and not ale.game_over():
            lives = ale.lives()
            c = run(ale, islice(plan, 20), frame)
            used, frame, ups = used + c.frames, frame + c.frames, ups + sum(after > before for _, before, after in c.lives)
            if c.over:
                last.add(c.lives[-1][1] if c.lives else lives)
            elif zero is None and ale.lives() == 0 < start:
                still, courses = forks(ale, ale.cloneState(), actions, 120) if with_forks else (c, [])
                zero = frame, any(x.pictures != still.pictures for x in courses)
        tails += [(frame - zero[0], zero[1])] if zero and ale.game_over() else []
        lengths.append(frame)
        if used >= most:
            break
    if start < 2 and not ups:
        rule = f"none, always {start}"
    elif not tails:
        rule = "the current one too" if last else "not seen to end"
    else:
        rule = "spares only" if any(x for _, x in tails) else "the current one too; 0 while it dies"
    endless = not ale.game_over() and len(lengths) == 1 and with_forks  # all the frames went into one game
    state = condition(ale, ale.cloneState(), actions, eventful) if endless else "-"
    counts = {"rule": rule, "start": start, "at_reset": at_reset, "ups": ups, "before_over": sorted(last)}
    return counts | {"after_0": [n for n, _ in tails]}, {"frames": lengths, "condition": state}


def waits_facts(ale: Any, actions: list[Any]) -> dict[str, Any]:
    """What sets a still game going: a single press of FIRE, or of another action, after 0, 240 and 4,000 frames of NOOP."""
    waits = []
    for frames in (0, 240, 4_000):
        ale.reset_game()
        run(ale, repeat(actions[0], frames))
        state, moved = ale.cloneState(), {}
        for action in actions:
            if action.name in ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN"):
                ale.restoreState(state)
                moved[action.name] = run(ale, chain(repeat(action, PRESS), repeat(actions[0], FORK)))
        still = moved.pop("NOOP")
        new = {a: abs(len({*c.pictures}) - len({*still.pictures})) for a, c in moved.items()}
        by = {a for a, c in moved.items() if c.events > still.events or new[a] >= STILL}
        waits.append("-" if not by else "FIRE" if by == {"FIRE"} else "any" if "FIRE" in by else "a move")
    return {"start": waits[0] if waits[0] != "-" else waits[1], "later": waits[2]}


def share_in_play(env_id: str) -> float:
    """After what share of RESETS resets under v5 a game that waits for FIRE goes: other pictures than without FIRE, a reward, a life."""
    import torch

    import arcturus

    def pictures(protocol: str) -> np.ndarray:
        envs: Any
        with arcturus.make(env_id, num_envs=RESETS, protocol=protocol, threads=1) as envs:
            envs.restart(np.arange(RESETS))
            seen: list[set[int]] = [set() for _ in range(RESETS)]
            for _ in range(WATCH):
                envs.send(torch.zeros(RESETS, dtype=torch.int64))
                envs.recv()
                for i, shown in enumerate(seen):
                    happened = envs.host.life_lost[i] or envs.host.reward[i]
                    shown |= {hash(envs.host.obs[i].tobytes())} | (set(range(STILL)) if happened else set())
            return np.array([len(s) for s in seen])

    return float(np.mean(np.abs(pictures("v5") - np.median(pictures("nature"))) >= STILL / 2))


def measure(env_id: str, game: str, with_forks: bool, out: Any) -> None:
    """Puts all facts of one game into the queue."""
    ale = raw(game)
    own = ale.getMinimalActionSet()
    actions = [Action.NOOP, *(a for a in own if a.name != "NOOP")]  # two games have none among their own
    facts: dict[str, Any] = {"id": env_id, "actions": len(own), "has_noop": Action.NOOP in own}
    facts["screen"] = [int(x) for x in ale.getScreenDims()]  # height, width
    eventful = with_forks and any(c.events for c in forks(ale, ale.cloneState(), actions)[1])
    facts["noop"] = noop_facts(ale, actions, with_forks, eventful)
    facts["lives"], facts["random"] = random_facts(ale, actions, with_forks, eventful)
    still = facts["noop"]["condition"] != "over" and with_forks
    facts["waits"] = waits_facts(ale, actions) if still else {"start": "-", "later": "-"}
    if facts["waits"]["start"] == "FIRE":
        facts["waits"]["in_play"] = share_in_play(env_id)
    out.put(facts)


def apart(env_id: str, game: str) -> dict[str, Any]:
    """measure() in a process of its own; once more without restored states where ale-py crashed on one."""
    context = multiprocessing.get_context("spawn")
    for with_forks in (True, False):
        out = context.Queue()
        process = context.Process(target=measure, args=(env_id, game, with_forks, out))
        process.start()
        process.join()
        if process.exitcode == 0:
            return out.get()
        if process.exitcode == 1:
            break  # an exception, printed above
    raise EnvironmentProblem(f"{env_id} can't be measured (exit code {process.exitcode})", where="--games", fix="leave it out")


def row(name: str, facts: dict[str, Any], game: str) -> str:
    """One game's line of the page."""
    noop, lives, waits, floors = facts["noop"], facts["lives"], facts["waits"], facts.get("floors", {})
    ends = f"over at {noop['frames']:,}, {noop['score']:g}" if noop["condition"] == "over" else "cap"
    ends += "; **{condition}** from {died[0]:,}..{died[1]:,}".format(**noop) if "died" in noop else ""
    ends += "; random play ends **dead**, never over" if facts["random"]["condition"] == "dead" else ""
    waiting = waits["start"] + (f"; {waits['later']} later" if waits["later"] not in ("-", waits["start"]) else "")
    waiting += f" (v5: {waits['in_play']:.0%} in play)" if "in_play" in waits else ""
    measured = "{random:,.1f} / {constant:,.1f} ({action}); {protocol}, {episodes} games".format(**floors) if floors else ""
    random = published().get(game, {}).get("random")
    start = f"{facts['actions']}{'' if facts['has_noop'] else ', no NOOP'} | {lives['start']}"
    cells = [name, start, lives["rule"], waiting, ends, "{} x {}".format(*facts["screen"])]
    cells += ["" if random is None else f"{random:,.1f}", measured, facts.get("note", "")]
    return "| " + " | ".join(str(x) for x in cells) + " |"


def page(table: dict[str, Any], before: str) -> str:
    """The whole page, in Markdown: what stood before the table stays."""
    rows = [row(name, facts, games()[facts["id"]]) for name, facts in sorted(table["games"].items())]
    return "\n".join([before.split(HEADS)[0].rstrip(), "", HEADS, "|" + "---|" * (HEADS.count("|") - 1), *rows]) + "\n"


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="games", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--games", metavar="A,B", help="games to measure; default: all")
    p.add_argument("--json", type=user_path, default=Path("docs/games.json"), metavar="FILE")
    p.add_argument("--page", type=user_path, metavar="FILE")
    p.add_argument("--only-page", action="store_true", help="measure nothing, only write the page")
    p.add_argument("--merge", type=user_path, metavar="FILE")
    args = p.parse_args(argv)
    known = {name.removeprefix("ALE/").removesuffix("-v5"): name for name in games()}
    table: dict[str, Any] = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {"games": {}}
    for name in [] if args.only_page else args.games.split(",") if args.games else known:
        if name not in known:
            raise ConfigError(f"unknown game {name!r}", where="--games", fix=nearest(name, known, "games"))
        kept = {k: v for k, v in table["games"].get(name, {}).items() if k in ("floors", "note")}
        table["games"][name] = apart(known[name], games()[known[name]]) | kept
        table["ale_py"] = version("ale-py")
        print(row(name, table["games"][name], games()[known[name]]), flush=True)
        write_atomically(args.json, json.dumps(table) + "\n")
    for name, more in json.loads(args.merge.read_text(encoding="utf-8")).items() if args.merge else ():
        table["games"][name] |= more
    write_atomically(args.json, json.dumps(table, indent=1) + "\n")
    if args.page:
        before = args.page.read_text(encoding="utf-8") if args.page.exists() else "# The games\n"
        write_atomically(args.page, page(table, before))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
