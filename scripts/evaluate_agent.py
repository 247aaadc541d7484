"""evaluate-agent: scores a trained agent on whole episodes with raw rewards, keeps every episode, films any of them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from arcturus.scripts.frontend import command  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path, with_options
from arcturus.envs import is_atari, open_envs
from arcturus.errors import ConfigError, Interrupted
from arcturus.outputs import PICTURES, check_output, check_output_folder, written_beside
from arcturus.telling import plain, say, shortened
from arcturus.tracking.start import Trackers, check_trackers

FILM_PATIENCE = 120.0  # seconds that a tracker has for a film
POLICIES = "greedy, sample, or epsilon=X (default: as the protocol says)"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="evaluate-agent", description=__doc__, allow_abbrev=False)
    p.add_argument("run", type=user_path, help="the run folder")
    p.add_argument("--episodes", type=int, default=30, help="whole episodes to play (default 30)")
    p.add_argument("--checkpoint", default="last", help="last, best (by evaluation during training), or a step (default last)")
    p.add_argument("--protocol", help="Atari: v5, nature, noop or noop-fire (default: the run's)")
    p.add_argument("--policy", help=POLICIES)
    p.add_argument("--seed", type=int, default=0, help="seed that chooses the episodes (default 0)")
    p.add_argument(
        "--num-envs", type=int, help="environments played in parallel (default 8; 1 if no second one may be opened)"
    )
    p.add_argument(
        "--max-steps", type=int, default=0, help="cut episodes after this many agent steps (default: 10,000 if nothing else ends them)"
    )
    p.add_argument("--device", default="auto")
    p.add_argument("--floors", action="store_true", help="also score random play and the best constant action")
    p.add_argument(
        "--video", type=user_path, metavar="FILE", help="film an episode (.mp4 or .gif): the median one, or --episode's"
    )
    p.add_argument("--track", default="", metavar="NAME", help="with --video: send the film to a tracker, too: wandb, mlflow, trackio")
    p.add_argument("--explain", metavar="HOW", help="with --video: show what each action depends on: saliency, guided or occlusion")
    p.add_argument("--episode", type=int, metavar="N", help="film episode N of the newest evaluation, without scoring")
    p.add_argument(
        "--value-figure", type=user_path, metavar="FILE", help="draw the predicted value, with the frames at its rise, peak and fall"
    )
    p.add_argument("--rollouts", type=user_path, metavar="FILE.npz", help="write every episode, with the frames that the agent saw")
    p.add_argument("--attack", metavar="HOW", help="noise or fgsm: disturb what the agent sees (Huang et al. 2017)")
    p.add_argument(
        "--strength", metavar="X,X", help="with --attack: size of the disturbance, where 1 is black to white (0.005,0.01); each is scored"
    )
    p.add_argument("--lengths", metavar="L,L", help="NTM/ tasks: score by length instead (10,20; for tasks with two lengths: 10x5,20x10)")
    p.add_argument("--sequences", type=int, default=1_000, help="with --lengths: tapes per length (default 1,000)")
    p.add_argument("--env-options", metavar="NAME=VALUE,...", help="with --lengths: other settings of the task (series=10)")
    p.add_argument("--pictures", type=user_path, metavar="DIR", help="with --lengths: draw answers and memory at each length")
    p.add_argument(
        "--memory-slots", type=int, metavar="N", help="give an ntm or dnc another number of slots than it was trained with"
    )
    p.add_argument("--json", action="store_true", help="print evaluation.json and nothing else")
    p.add_argument("--trust", action="append", default=[], metavar="NAME", help="import this agent or environment from outside arcturus")
    return p


def main(argv: list[str]) -> int:
    if any(arg.split("=")[0] == "--replay" for arg in argv):  # of version 0.1
        raise ConfigError("there is no --replay", where="the command line", fix="use --episode N --video FILE.mp4")
    args = parser().parse_args(argv)
    import torch

    from arcturus.device import choose_device
    from arcturus.runs.folder import Run
    from arcturus.runs.library import load
    from arcturus.scoring.explain import check_explanation
    from arcturus.scoring.film import check_screen

    torch.set_num_threads(1)
    run, device = Run(args.run), choose_device(args.device)
    check_arguments(args)
    if args.episode is not None:
        return film_saved(run, args, device)
    actor = load(run, args.checkpoint, device, tuple(args.trust), args.memory_slots)
    config = actor.config.env
    if args.lengths:
        if args.env_options:
            config = otherwise(config, args.env_options)
        return score_by_length(run, args, actor, config, device)
    if args.protocol and not is_atari(config.id):
        raise ConfigError(f"protocols are for Atari games, and {config.id} is not one", where="--protocol", fix="leave it out")
    config = replace(config, protocol=args.protocol or config.protocol)
    if args.attack:
        return score_under_attack(run, args, actor, config, device)
    if args.explain:
        with open_envs(replace(config, num_envs=1), 0, device) as envs:
            check_explanation(args.explain, actor, envs.spec, device)
    if args.video or args.value_figure:
        check_screen(config)
    return score_episodes(run, args, actor, config, device)


def score_episodes(run: Any, args: argparse.Namespace, actor: Any, config: Any, device: str) -> int:
    """Plays whole episodes, keeps and reports them, and draws what is asked for.  After a signal, finished episodes are kept."""
    from arcturus.runs.signals import Signals
    from arcturus.scoring.keeping import keep

    with Signals() as signals:
        try:
            result = play_episodes(args, actor, config, device, signals.stop)
        except Interrupted:
            say("stopped before any episode was over: nothing was saved")
            return 128 + (signals.received or 0)
        unfinished = "asked" in result.about
        result.about.update(slots_told(args), run=str(args.run), agent=actor.config.agent_name, checkpoint=actor.step)
        name = evaluation_name(args, actor, f"{config.protocol}-{result.policy.replace('=', '')}" + "-unfinished" * unfinished)
        folder = keep(run.path, name, result.save)
        say(f"saved in {folder}  (--episode N --video FILE films episode N)")
    if args.floors and not unfinished:
        result.about.update(floors_of(config, args, device))
        keep(run.path, name, result.save)
    report = result.to_json()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        tell(report)
    if args.rollouts:
        written_beside(args.rollouts, lambda beside: write_rollouts(beside, result))
        say(f"rollouts saved in {args.rollouts}")
    if unfinished:
        return 128 + (signals.received or 0)
    order = sorted(result.episodes, key=lambda e: e.score)
    draw(args, actor, config, order[len(order) // 2], device)
    return 0


def play_episodes(args: argparse.Namespace, actor: Any, config: Any, device: str, stop: Callable[[], bool]) -> Any:
    from arcturus.scoring.evaluation import evaluate

    return evaluate(
        actor,
        config,
        args.episodes,
        seed=args.seed,
        policy=args.policy,
        device=device,
        num_envs=args.num_envs,
        keep_frames=args.rollouts is not None,
        max_steps=args.max_steps,
        stop=stop,
        keep_finished=True,
        progress=say,
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Before anything is loaded."""
    from arcturus.envs.atari import protocol
    from arcturus.scoring.evaluation import check_counts
    from arcturus.scoring.film import FILMS
    from arcturus.scoring.sequences import SEQUENCES_LIMIT

    check_counts(args.episodes, args.num_envs)
    for flag, number, low, high in (
        ("--sequences", args.sequences, 1, SEQUENCES_LIMIT),
        ("--seed", args.seed, 0, 2**63 - 1),
        ("--max-steps", args.max_steps, 0, 2**31 - 1),
    ):
        if not low <= number <= high:
            raise ConfigError(f"{flag} {shortened(str(number), 40)} is not from {low} to {high:,}", where=flag)
    if args.protocol:
        protocol(args.protocol)
    check_trackers(args.track)
    film, tapes = ("video", "FILE.mp4"), ("lengths", "10,20")
    for name, (needed, fix) in {"explain": film, "track": film, "pictures": tapes, "env_options": tapes}.items():
        if getattr(args, name) and not getattr(args, needed):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} works only with --{needed}", where=flag, fix=f"add --{needed} {fix}")
    if bool(args.attack) != bool(args.strength):
        raise ConfigError(
            "--attack and --strength must be given together", where="--attack", fix="--attack noise --strength 0.01"
        )
    drawn = ("video", "value_figure", "rollouts", "floors")
    if args.lengths:
        check_alone(args, "--lengths", "scoring by length plays no episodes", *drawn, "episode", "attack")
    if args.attack:
        check_alone(args, "--attack", "--attack only scores: it draws and writes nothing else", *drawn)
    if args.pictures:
        check_output_folder(args.pictures, "--pictures")
    for file, flag, endings in (
        (args.video, "--video", FILMS),
        (args.value_figure, "--value-figure", PICTURES),
        (args.rollouts, "--rollouts", (".npz",)),
    ):
        if file is not None:
            check_output(file, flag, endings)


def slots_told(args: argparse.Namespace) -> dict[str, int]:
    """A report's entry for a changed number of memory slots."""
    return {} if args.memory_slots is None else {"memory_slots": args.memory_slots}


def evaluation_name(args: argparse.Namespace, actor: Any, name: str) -> str:
    """The evaluation's folder name, with other slots or task options in it."""
    slots = "" if args.memory_slots is None else f"-slots{args.memory_slots}"
    task = "-" + re.sub("[^a-z0-9=_]+", "-", args.env_options.lower()) if args.env_options else ""
    return f"step-{actor.step:012d}-{name}{slots}{task}-seed{args.seed}"


def otherwise(config: Any, options: str) -> Any:
    """The same task under other settings; ConfigError if observations or actions differ."""
    changed = replace(config, options=with_options(config.options, options))
    with open_envs(replace(config, num_envs=1), 0, "cpu") as known, open_envs(replace(changed, num_envs=1), 0, "cpu") as new:
        if (known.spec.obs_shape, known.spec.action_space) != (new.spec.obs_shape, new.spec.action_space):
            raise ConfigError(f"with {options} the task has other observations or actions than in training", where="--env-options")
    return changed


def check_alone(args: argparse.Namespace, flag: str, why: str, *names: str) -> None:
    """ConfigError for a flag that can't be combined with this one."""
    for name in names:
        if getattr(args, name) not in (None, False):
            other = "--" + name.replace("_", "-")
            raise ConfigError(why, where=other, fix=f"leave out {other} or {flag}")


def score_by_length(run: Any, args: argparse.Namespace, actor: Any, config: Any, device: str) -> int:
    from arcturus.scoring.keeping import keep, write_lengths
    from arcturus.scoring.sequences import parse_lengths, score_lengths

    lengths = parse_lengths(args.lengths)
    scores = score_lengths(actor, config, lengths, args.sequences, seed=args.seed, device=device)
    report = {
        "env": config.id,
        "options": config.options,
        "run": str(args.run),
        "agent": actor.config.agent_name,
        "checkpoint": actor.step,
        "seed": args.seed,
        **slots_told(args),
        "lengths": [s.to_json() for s in scores],
    }
    folder = keep(run.path, evaluation_name(args, actor, "lengths"), partial(write_lengths, report))
    say(f"saved in {folder}")
    if args.pictures:
        from arcturus.pictures.album import write_pictures

        for file in write_pictures(args.pictures, actor, config, scores, seed=args.seed, device=device):
            say(f"picture {file}")
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    print(plain(f"{report['env']} {report['options']}".rstrip()))
    print(f"{report['agent']}, checkpoint at step {actor.step:,}, {args.sequences:,} tapes of each")
    print(f"{'length':>8s} {'bits':>10s} {'guessing':>10s} {'error bits':>11s} {'exact':>8s}")
    for s in scores:
        bits = "-" if s.bits is None else f"{s.bits:.3f}"
        excess = "" if s.excess is None else f"   {s.excess:+.3f} +- {s.excess_error or 0:.3f} bits over the optimal observer"
        print(f"{s.name:>8s} {bits:>10s} {s.chance:>10,d} {s.error_bits:>11.3f} {100 * s.exact:>7.1f}%{excess}")
    return 0


def score_under_attack(run: Any, args: argparse.Namespace, actor: Any, config: Any, device: str) -> int:
    """The same episodes under every strength, 0 first."""
    from arcturus.runs.signals import Signals
    from arcturus.scoring.attack import Attacked, check_attack
    from arcturus.scoring.keeping import keep

    try:
        strengths = [float(x) for x in args.strength.split(",")]
    except ValueError:
        raise ConfigError(f"{args.strength!r} are not numbers", where="--strength", fix="write 0.005,0.01") from None
    with open_envs(replace(config, num_envs=1), 0, device) as envs:
        check_attack(args.attack, strengths, actor, envs.spec, device)
    reports: list[dict[str, Any]] = []
    with Signals() as signals:
        for strength in [0.0, *(x for x in strengths if x)]:
            attacked = Attacked(actor, args.attack, strength, args.seed) if strength else actor
            try:
                result = play_episodes(args, attacked, config, device, signals.stop)
            except Interrupted:
                break
            result.about.update(slots_told(args), run=str(args.run), agent=actor.config.agent_name, checkpoint=actor.step)
            if strength:
                result.about["attack"] = {"how": args.attack, "strength": strength}
            name = f"{config.protocol}-{result.policy.replace('=', '')}-{args.attack}{strength:g}"
            keep(run.path, evaluation_name(args, actor, name + "-unfinished" * ("asked" in result.about)), result.save)
            reports.append(result.to_json())
            if not args.json:
                if len(reports) == 1:
                    print(
                        f"{config.id}  {reports[0]['protocol_rules']}\npolicy {result.policy}, checkpoint at step {actor.step:,}"
                    )
                print(line(f"{args.attack} {strength:g}" if strength else "undisturbed", reports[-1]["score"]), flush=True)
    if args.json:
        print(json.dumps(reports, indent=2))
    return 128 + signals.received if signals.received else 0


def floors_of(config: Any, args: argparse.Namespace, device: str) -> dict[str, Any]:
    from arcturus.scoring.floors import floors
    from arcturus.scoring.statistics import summary

    found = floors(config, args.episodes, args.seed, device)
    out: dict[str, Any] = {"floors": {"random": summary(found.random.scores)}}
    if found.constant:
        name = str(found.action)
        if is_atari(config.id):
            from arcturus.envs.atari import action_names

            name = action_names(config.id, config.full_action_space)[found.action]
        out["floors"]["constant"] = summary(found.constant.scores) | {"action": name}
    return out


def line(name: str, s: dict[str, Any]) -> str:
    return (
        f"{name:22s} mean {s['mean']:.2f} [{s['ci95_low']:.2f}, {s['ci95_high']:.2f}]  median {s['median']:.1f}  std {s['std']:.2f}  "
        f"min {s['min']:g}  max {s['max']:g}  {s['episodes']} episodes"
    )


def tell(report: dict[str, Any]) -> None:
    print(f"{report['env']}  {report['protocol_rules']}\npolicy {report['policy']}, checkpoint at step {report['checkpoint']:,}")
    print(line(report["agent"], report["score"]))
    for name, floor in report.get("floors", {}).items():
        print(line("random play" if name == "random" else f"constant {floor['action']}", floor))
    if "highest" in report:
        print(f"{'highest possible':22s} mean {report['highest']:.2f}, undiscounted, averaged over the environment's randomness")
    if report.get("human_normalised") is not None:
        print(f"human-normalised {100 * report['human_normalised']:.1f}% (0 random, 100 human; Wang et al. 2016's table)")
    if "start_value" in report:
        v = report["start_value"]
        print(
            f"value at the start: predicted {v['predicted']:.3f}, obtained {v['obtained']:.3f} (discounted, as in training)"
        )
    if "asked" in report:
        print(f"{report['score']['episodes']} of {report['asked']} episodes were over when it was stopped, mostly short ones")
    if report["stalled"]:
        print(f"{report['stalled']} episodes stalled and were stopped; their scores count")
    if report["cut"]:
        print(
            f"{report['cut']} episodes were cut at {report['max_steps']:,} steps (--max-steps); their scores count only those steps"
        )


def write_rollouts(path: Path, result: Any) -> None:
    """One array per field, episodes concatenated; lengths says where they end.  frames has one more row than actions."""
    import numpy as np

    e = result.episodes
    arrays: dict[str, Any] = {name: np.concatenate([getattr(x, name) for x in e]) for name in ("frames", "actions", "rewards")}
    for name, field in (("lengths", "length"), ("seeds", "seed"), ("stalled", "stalled")):
        arrays[name] = np.array([getattr(x, field) for x in e])
    np.savez_compressed(path, **arrays)


def film_saved(run: Any, args: argparse.Namespace, device: str) -> int:
    from arcturus.runs.library import load
    from arcturus.scoring.keeping import episode_of

    if not args.video and not args.value_figure:
        raise ConfigError(
            "--episode needs a file to write", where="--episode", fix="add --video FILE.mp4 or --value-figure FILE.png"
        )
    run.config(tuple(args.trust))  # refuses what it must before anything else is read
    episode, step, rules, slots = episode_of(run.path, args.episode)
    actor = load(run, str(step), device, tuple(args.trust), slots)
    config = actor.config.env
    draw(args, actor, replace(config, protocol=rules if rules != "-" else config.protocol), episode, device)
    return 0


def draw(args: argparse.Namespace, actor: Any, config: Any, episode: Any, device: str) -> None:
    from arcturus.scoring.film import value_figure, write_film

    if args.video:
        title = f"{config.id}  {actor.config.agent_name}"
        count = write_film(args.video, actor, config, episode, title=title, device=device, explain=args.explain)
        say(f"film {args.video}: {count} pictures, seed {episode.seed}, score {episode.score:g}")
        Trackers(check_trackers(args.track), args.run, [args.video]).let_go(FILM_PATIENCE)
    if args.value_figure:
        points = value_figure(args.value_figure, actor, config, episode, device=device)
        say(f"value figure {args.value_figure}: steps {points}")


cli = command(main)

if __name__ == "__main__":
    cli()
