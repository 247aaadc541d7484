"""plot_run: draws a run's learning curve and its average maximum action-value on held-out states (Mnih et al. 2013, figure 2).

python -m arcturus.scripts.plot_run RUN FILE.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from arcturus.scripts.frontend import guarded


def series(rows: list[dict[str, Any]], tag: str) -> tuple[list[float], list[float]]:
    """Steps in millions and values of one tag."""
    points = [(row["step"] / 1e6, row[tag]) for row in rows if tag in row]
    return [p[0] for p in points], [p[1] for p in points]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="plot_run", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    from matplotlib.figure import Figure

    from arcturus.runs.folder import Run, read_metrics

    run = Run(args.run)
    config, rows = run.config(), read_metrics(run)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*series(rows, "charts/episodic_return"), color="#2f6f8f", label="training, mean of the last 100 episodes")
    x, mean = series(rows, "eval/episodic_return_mean")
    if x:
        low, high = series(rows, "eval/ci_low")[1], series(rows, "eval/ci_high")[1]
        error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
        label = f"evaluation, {config.run.eval_episodes} episodes, 95% interval"
        left.errorbar(x, mean, error, fmt="o", color="#c2410c", markersize=4, capsize=3, label=label)
    left.set_ylabel("return (raw, whole games)")
    left.legend(frameon=False)
    right.plot(*series(rows, "charts/heldout_max_q"), color="#2f6f8f")
    right.set_ylabel("average maximum action-value, held-out")
    for axes in (left, right):
        axes.set_xlabel("million agent steps" + (" (x4: frames)" if config.env.id.startswith("ALE/") else ""))
        axes.grid(alpha=0.25)
    figure.suptitle(f"{config.agent_name} on {config.env.id}, preset {config.preset}, seed {config.run.seed}")
    args.file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.file, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
