"""What a run tells beside its losses: evaluations during training, and the last hidden layer at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from arcturus.runs.monitor import Monitor
from arcturus.scoring.evaluation import Evaluation
from arcturus.scoring.instruments import HeldOut, first_filters
from arcturus.scoring.statistics import summary


def report_evaluation(monitor: Monitor, agent: Any, result: Evaluation, steps: int, seconds: float, best: bool) -> None:
    score = summary(result.scores)
    values = {
        "eval/episodic_return_mean": score["mean"],
        "eval/episodic_return_median": score["median"],
        "eval/ci_low": score["ci95_low"],
        "eval/ci_high": score["ci95_high"],
        "eval/episodic_length": float(np.mean([e.length for e in result.episodes])),
    }
    extra = result.to_json()
    if extra.get("human_normalised") is not None:
        values["eval/human_normalized"] = extra["human_normalised"]
    if "start_value" in extra:
        values |= {f"eval/start_value_{k}": v for k, v in extra["start_value"].items()}
    monitor.scalars(steps, values)
    if getattr(agent, "network", None) is not None and (picture := first_filters(agent.network)) is not None:
        monitor.picture("network/first_layer_filters", picture, steps)
    monitor.text(
        f"{steps:,} steps: evaluation {score['mean']:.2f} [{score['ci95_low']:.2f}, {score['ci95_high']:.2f}] over "
        f"{len(result.episodes)} episodes, {result.policy}, {seconds:.0f} s{'; the best so far' if best else ''}"
    )


def report_hidden_layer(monitor: Monitor, agent: Any, heldout: HeldOut, steps: int) -> None:
    """The last hidden layer on the held-out states, for TensorBoard's projector (Mnih et al. 2015, figure 4)."""
    arrays = heldout.read(agent)[1]
    if "hidden" not in arrays:
        return
    names = [str(a) for a in arrays["action"].tolist()]
    values = [f"{v:.4f}" for v in arrays.get("value", np.zeros(len(names))).tolist()]
    obs, frames = heldout.obs, None
    if obs.dtype == torch.uint8 and obs.dim() == 4:
        frames = obs[:, -1:].float().cpu() / 255
    rows = [list(pair) for pair in zip(values, names, strict=True)]
    monitor.embedding(arrays["hidden"], rows, ["value", "action"], frames, steps)
