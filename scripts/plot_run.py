"""plot_run: draws a run's learning curve and its average value on held-out states (Mnih et al. 2013, figure 2); of several runs,
their learning curves and evaluations.

python -m arcturus.scripts.plot_run RUN [RUN ...] FILE.png
python -m arcturus.scripts.plot_run RUN [RUN ...] --bits FILE.png       of NTM/ tasks: bits per sequence against sequences seen
python -m arcturus.scripts.plot_run RUN [RUN ...] --lengths FILE.png    and against lengths, as evaluate-agent --lengths scored them
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from arcturus.config import user_path
from arcturus.outputs import PICTURES, check_output, written_beside
from arcturus.scripts.frontend import guarded
from arcturus.telling import typed

COLOURS = ("#2f6f8f", "#c2410c", "#4d7c0f", "#7c3aed", "#8d8b84")
STYLES = ("-", "--", ":", "-.")
VALUES = {
    "charts/heldout_max_q": "average maximum action-value, held-out",
    "charts/heldout_value": "average value, held-out",
}  # tag -> what it is


def series(rows: list[dict[str, Any]], tag: str) -> tuple[list[float], list[float]]:
    """Steps in millions and values of one tag."""
    points = [(row["step"] / 1e6, row[tag]) for row in rows if tag in row]
    return [p[0] for p in points], [p[1] for p in points]


def names_of(runs: list[Path], configs: list[Any]) -> list[str]:
    """Agent, memory and seed; with the folder's name where two are alike."""
    from arcturus.runs.groups import memory_of

    names = [", ".join(part for part in (c.agent_name, memory_of(c), f"seed {c.run.seed}") if part) for c in configs]
    return [name if names.count(name) == 1 else f"{name}, {run.name}" for name, run in zip(names, runs, strict=True)]


def plot_task(runs: list[Path], file: Path, by_length: bool) -> None:
    """Of runs on the same NTM/ task.  ConfigError for others, and for runs without such scores."""
    from arcturus.config import parse_options
    from arcturus.envs import family, is_own
    from arcturus.envs.tasks import task_of
    from arcturus.errors import CheckpointError, ConfigError
    from arcturus.pictures.curves import learning_curves, length_curves
    from arcturus.pictures.style import save
    from arcturus.runs.files import read_json
    from arcturus.runs.folder import Run, read_metrics
    from arcturus.scoring.keeping import LENGTHS, kept

    folders = [Run(path) for path in runs]
    configs = [run.config() for run in folders]
    where, env = "--lengths" if by_length else "--bits", configs[0].env
    tasks = [task_of(c.env.id, parse_options(c.env.options))[0] for c in configs if family(c.env.id) == "ntm" and is_own(c.env.id)]
    if len(tasks) < len(configs) or len(set(tasks)) > 1:
        raise ConfigError("these runs are not of one NTM/ task", where=where, fix="give runs with the same --env and lengths")
    names, title = names_of(runs, configs), f"{env.id} {env.options}".strip()
    if not by_length:
        metrics = [read_metrics(run) for run in folders]
        tags = {tag for rows in metrics for row in rows for tag in row}
        if not tags & {"task/bits_per_sequence", "eval/bits_per_sequence"}:
            raise ConfigError("no bits per sequence were logged", where=where, fix="agents without a policy have none")
        save(learning_curves(list(zip(names, metrics, strict=True)), tasks[0], title), file)
        return
    scores: list[Any] = []
    for run in folders:
        found = kept(run.path, LENGTHS)
        if not found:
            raise ConfigError(
                f"{run.path} has no scores by length", where=where, fix=f"evaluate-agent {typed(run.path)} --lengths 10,20"
            )
        scores.append(read_json(found[-1]).get("lengths"))
    try:
        figure = length_curves(list(zip(names, scores, strict=True)), tasks[0], title)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"these scores by length can't be read: {e!r}", where=where) from e
    save(figure, file)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="plot_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN")
    parser.add_argument("file", type=user_path)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--bits", action="store_true", help="bits per sequence against sequences seen, beside guessing and the optimum"
    )
    how.add_argument("--lengths", action="store_true", help="the newest scores by length")
    args = parser.parse_intermixed_args(argv)
    check_output(args.file, "FILE", PICTURES)
    if args.bits or args.lengths:
        plot_task(args.runs, args.file, args.lengths)
        return 0
    from matplotlib.figure import Figure

    from arcturus.runs.folder import Run, read_metrics
    from arcturus.runs.groups import kind_of

    known = [(run.config(), read_metrics(run)) for run in map(Run, args.runs)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = [kind_of(config) for config, _ in known]
    colours = dict(zip(dict.fromkeys(kinds), itertools.cycle(COLOURS)))
    alone, seen = len(known) == 1, Counter[str]()
    for (config, rows), kind in zip(known, kinds, strict=True):  # a colour for each kind, a style for each seed of it
        colour, style = colours[kind], STYLES[seen[kind] % len(STYLES)]
        seen[kind] += 1
        name = kind if kinds.count(kind) == 1 else f"{kind}, seed {config.run.seed}"
        label = "training, last 100 episodes" if alone else name
        left.plot(*series(rows, "charts/episodic_return"), style, color=colour, label=label)
        x, mean = series(rows, "eval/episodic_return_mean")
        if x:
            low, high = series(rows, "eval/ci_low")[1], series(rows, "eval/ci_high")[1]
            error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
            label = f"evaluation, {config.run.eval_episodes} episodes, 95% interval"
            axes, tint, points = (left, "#c2410c", "o") if alone else (right, colour, "o" + style)
            axes.errorbar(x, mean, error, fmt=points, color=tint, markersize=4, capsize=3, label=label if alone else name)
        if alone:
            tag = next((t for t in VALUES if any(t in row for row in rows)), "charts/heldout_value")
            right.plot(*series(rows, tag), color=colour)
            right.set_ylabel(VALUES[tag])
    left.set_ylabel("return (raw, whole games)")
    if len(known) > 1:
        right.set_ylabel("evaluation, mean and 95% interval")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(known), frameon=False)
    else:
        left.legend(frameon=False)
    config = known[0][0]
    for axes in (left, right):
        axes.set_xlabel("million agent steps" + (" (x4: frames)" if config.env.id.startswith("ALE/") else ""))
        axes.grid(alpha=0.25)
    title = f"{config.agent_name} on {config.env.id}, preset {config.preset}" if len(known) == 1 else config.env.id
    seeds = sorted({config.run.seed for config, _ in known})
    figure.suptitle(f"{title}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    written_beside(args.file, lambda beside: figure.savefig(beside, dpi=100))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
