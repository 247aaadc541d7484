"""What is asked of a tracker, and the three that come along.  Only follow.py, a process of its own, imports their packages.

Each begins a run of its own, or goes on with the one it began for the same run folder.  What it writes goes where its users expect it,
never into the run folder: that may hold no links, and Weights & Biases makes some.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

PROJECT = "arcturus"  # where the environment names no other


class Followed(NamedTuple):
    """The run that is followed."""

    id: str  # of the run folder, the same after every resume
    name: str
    config: dict[str, Any]  # setting -> value, flat: agent.gamma


class Tracker(Protocol):
    """Calls may raise anything, and take as long as they will: no run waits for them."""

    def send(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """All there is of one agent step, steps rising.  pictures: PNG files."""

    def film(self, path: Path) -> None: ...

    def end(self, status: str) -> None:
        """status: that of run.json (finished, preempted, failed), or running if its process is gone without a word."""


def _format(film: Path) -> Literal["gif", "mp4"]:
    return "gif" if film.suffix == ".gif" else "mp4"


class WandB:
    """Its own variables say where to: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline ..."""

    def __init__(self, run: Followed):
        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=run.config,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def send(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        from PIL import Image

        shown = {tag: self.wandb.Image(Image.open(BytesIO(png))) for tag, png in pictures.items()}
        self.run.log({**scalars, **shown}, step=step)

    def film(self, path: Path) -> None:
        self.run.log({f"videos/{path.stem}": self.wandb.Video(str(path), format=_format(path))})

    def end(self, status: str) -> None:
        self.run.finish(exit_code=int(status in ("failed", "running")))


class MLflow:
    """Its own variables say where to: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    ENDS = {"finished": "FINISHED", "preempted": "KILLED"}
    MOST = 100  # settings in one call

    def __init__(self, run: Followed):
        import mlflow

        self.client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        mine = self.client.search_runs([experiment], filter_string=f"tags.`arcturus.id` = '{run.id}'")
        if mine:
            self.id = mine[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(experiment, tags={"arcturus.id": run.id}, run_name=run.name).info.run_id
        if mine and mine[0].data.params:
            return
        settings = [mlflow.entities.Param(k, str(v)[:500]) for k, v in run.config.items()]
        for at in range(0, len(settings), self.MOST):
            self.client.log_batch(self.id, params=settings[at : at + self.MOST])

    def send(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        import mlflow
        import numpy as np
        from PIL import Image

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[mlflow.entities.Metric(k, v, now, step) for k, v in scalars.items()])
        for tag, png in pictures.items():
            self.client.log_image(self.id, np.asarray(Image.open(BytesIO(png))), key=tag, step=step)

    def film(self, path: Path) -> None:
        self.client.log_artifact(self.id, str(path), "videos")

    def end(self, status: str) -> None:
        self.client.set_terminated(self.id, self.ENDS.get(status, "FAILED"))


class Trackio:
    """Local, or where its own variables say: TRACKIO_PROJECT, TRACKIO_DIR, TRACKIO_SPACE_ID."""

    def __init__(self, run: Followed):
        import trackio

        self.trackio = trackio
        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.id[:8]}",
            config=run.config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def send(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        from PIL import Image

        shown = {tag: self.trackio.Image(Image.open(BytesIO(png)).convert("RGB")) for tag, png in pictures.items()}
        self.run.log({**scalars, **shown}, step=step)

    def film(self, path: Path) -> None:
        self.run.log({f"videos/{path.stem}": self.trackio.Video(str(path), format=_format(path))})

    def end(self, status: str) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Followed], Tracker]] = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}  # name, also of its package
