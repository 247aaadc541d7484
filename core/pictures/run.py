"""One run: its learning curve with the evaluations, and its average value on held-out states (Mnih et al. 2013, figure 2)."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from arcturus.envs import is_atari
from arcturus.pictures.style import BLUE, GRID, VERMILION, step_unit, styled
from arcturus.runs.settings import RunConfig

VALUES = {
    "charts/heldout_max_q": "average maximum action-value, held-out",
    "charts/heldout_value": "average value, held-out",
}  # tag -> what it is


def series(rows: list[dict[str, Any]], tag: str, unit: float) -> tuple[list[float], list[float]]:
    """Steps, divided by unit, and values of one tag."""
    points = [(row["step"] / unit, row[tag]) for row in rows if tag in row]
    return [p[0] for p in points], [p[1] for p in points]


@styled
def one_run(config: RunConfig, rows: list[dict[str, Any]]) -> Figure:
    """rows: of metrics.jsonl."""
    figure = Figure((10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    unit, said = step_unit(max((row["step"] for row in rows), default=0))
    x, y = series(rows, "charts/episodic_return", unit)
    left.plot(x, y, color=BLUE, label="training, last 100 episodes" if x else None)
    x, mean = series(rows, "eval/episodic_return_mean", unit)
    if x:
        low, high = series(rows, "eval/ci_low", unit)[1], series(rows, "eval/ci_high", unit)[1]
        error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
        label = f"evaluation, {config.run.eval_episodes} episodes, 95% interval"
        left.errorbar(x, mean, error, fmt="o", color=VERMILION, markersize=4, capsize=3, label=label)
    left.set_ylabel("return (raw, whole games)")
    left.legend()
    tag = next((t for t in VALUES if any(t in row for row in rows)), "charts/heldout_value")
    right.plot(*series(rows, tag, unit), color=BLUE)
    right.set_ylabel(VALUES[tag])
    for axes in (left, right):
        axes.set_xlabel(f"{said} agent steps" + (" (x4: frames)" if is_atari(config.env.id) else ""))
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{config.agent_name} on {config.env.id}, preset {config.preset}, seed {config.run.seed}", fontsize=10)
    return figure
