"""plot_run: draws a run's learning curve and its average value on held-out states (Mnih et al. 2013, figure 2); of several runs,
their learning curves and evaluations.

python -m arcturus.scripts.plot_run RUN [RUN ...] FILE.png
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from arcturus.scripts.frontend import guarded

COLOURS = ("#2f6f8f", "#c2410c", "#4d7c0f", "#7c3aed", "#8d8b84")
VALUES = {
    "charts/heldout_max_q": "average maximum action-value, held-out",
    "charts/heldout_value": "average value, held-out",
}  # tag -> what it is


def series(rows: list[dict[str, Any]], tag: str) -> tuple[list[float], list[float]]:
    """Steps in millions and values of one tag."""
    points = [(row["step"] / 1e6, row[tag]) for row in rows if tag in row]
    return [p[0] for p in points], [p[1] for p in points]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="plot_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    from matplotlib.figure import Figure

    from arcturus.runs.folder import Run, read_metrics

    known = [(run.config(), read_metrics(run)) for run in map(Run, args.runs)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (config, rows), colour in zip(known, itertools.cycle(COLOURS)):
        name = config.agent_name if config.agent_name != "sb3" else f"stable-baselines3 {config.agent.algorithm}"
        alone = len(known) == 1
        left.plot(*series(rows, "charts/episodic_return"), color=colour, label="training, last 100 episodes" if alone else name)
        x, mean = series(rows, "eval/episodic_return_mean")
        if x:
            low, high = series(rows, "eval/ci_low")[1], series(rows, "eval/ci_high")[1]
            error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
            label = f"evaluation, {config.run.eval_episodes} episodes, 95% interval"
            axes, tint, kind = (left, "#c2410c", "o") if alone else (right, colour, "o-")
            axes.errorbar(x, mean, error, fmt=kind, color=tint, markersize=4, capsize=3, label=label if alone else name)
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
    figure.suptitle(f"{title}, seed {config.run.seed}")
    args.file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.file, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
