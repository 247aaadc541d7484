"""Films and figures of scored episodes.

An episode is (seed, actions).  A film plays them again with the observations that the agent saw, for its action-values; on Atari the
picture is from a twin in colour that plays along, elsewhere it is what the environment draws.  The episode played again
must earn the rewards that were scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arcturus.api import Act, Actor
from arcturus.device import torch_threads
from arcturus.envs import EnvConfig, is_atari, open_backend, open_envs
from arcturus.envs.opening import registered
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ConfigError, EnvironmentProblem, TrainingFailed
from arcturus.outputs import PICTURES, check_output, written_beside
from arcturus.pictures.moments import Bars, Canvas, Moment
from arcturus.scoring.evaluation import ScoredEpisode, start_values
from arcturus.scoring.explain import EXPLANATIONS, check_explanation

FILMS = (".mp4", ".gif")


class ColourTwin:
    """The same game in colour: one environment, same seed, same actions, same states."""

    def __init__(self, config: EnvConfig):
        self.atari: Any = open_backend(replace(config, num_envs=1, threads=1), colour=True)

    def first(self, seed: int) -> np.ndarray:
        """[H, W, 3] uint8 of an episode's beginning, right after its restart."""
        return self.atari.reset(np.array([seed], np.int64), None).obs[0]

    def next(self, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        """The picture right after an action was taken; and the reward, if it comes from a twin."""
        self.atari.send(action[None])
        row = self.atari.recv()
        return row.obs[0], float(row.reward[0])

    def close(self) -> None:
        self.atari.close()


class Drawing:
    """What the environment that is played draws of itself."""

    def __init__(self, envs: DeviceEnvs):
        self.backend: Any = envs.backend
        self.unit = True  # numbers that aren't whole have been from 0 to 1 so far

    def first(self, seed: int) -> np.ndarray:
        return self.picture(self.backend.render())

    def next(self, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        return self.picture(self.backend.render()), None

    def picture(self, drawn: Any) -> np.ndarray:
        """[H, W, 3] uint8 of bytes, whole numbers from 0 to 255, or others from 0 to 1 or to 255; grey, RGB or RGBA, channels last or
        first; of a list of pictures the last."""
        if isinstance(drawn, list) and drawn:
            drawn = drawn[-1]
        x = drawn if isinstance(drawn, np.ndarray) else np.empty(0)
        if x.ndim == 2:
            x = x[..., None]
        if x.ndim == 3 and x.shape[-1] not in (1, 3, 4) and x.shape[0] in (1, 3, 4):
            x = np.moveaxis(x, 0, -1)
        if x.ndim != 3 or x.shape[-1] not in (1, 3, 4) or not x.size or x.dtype.kind not in "biuf":
            gave = f"{drawn.dtype} {list(drawn.shape)}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            raise EnvironmentProblem(
                f"{self.backend.env_id}: its render() gave {gave} instead of a picture [height, width, 3] of bytes",
                where="--video",
            )
        x = np.repeat(x, 3, -1) if x.shape[-1] == 1 else x[..., :3]
        if x.dtype == np.uint8:
            return x
        x = np.nan_to_num(x.astype(np.float64))
        self.unit = self.unit and x.max() <= 1
        return (x * (255 if self.unit else 1)).clip(0, 255).astype(np.uint8)


def check_screen(config: EnvConfig) -> None:
    """Before episodes are played for a film: whether this environment can be shown at all."""
    if not is_atari(config.id):
        with opened(config, "cpu") as (envs, screen):
            envs.restart(np.array([0]))
            screen.first(0)


@contextmanager
def opened(config: EnvConfig, device: Any) -> Iterator[tuple[DeviceEnvs, ColourTwin | Drawing]]:
    """One environment to play an episode again, and its screen.  Only an Atari game is ever opened twice."""
    one = replace(config, num_envs=1)
    if is_atari(config.id):
        with closing(ColourTwin(one)) as twin, open_envs(one, 0, device) as envs:
            yield envs, twin
        return
    with open_envs(one, 0, device, drawn=True) as envs:
        if "rgb_array" not in envs.backend.render_modes:  # type: ignore[attr-defined]
            raise ConfigError(f"{config.id} can't be filmed: it has no rgb_array render mode", where="--video")
        yield envs, Drawing(envs)


def returns_of(act: Act, played: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """The possible returns of the played action, and their probabilities, [K] each, if the agent predicts them."""
    if "returns" not in act.extras:
        return None
    returns, p = (act.extras[k][0, int(played)].float().cpu().numpy() for k in ("returns", "probabilities"))
    return returns, p


def bars_of(act: Act, space: gym.Space) -> Bars | None:
    """The action-values, or a policy's probabilities where one action is chosen at a time."""
    if "q_values" in act.extras:
        q = act.extras["q_values"][0].float().cpu().numpy()
        return Bars("action-values", q, float(q.min()))
    if "logits" in act.extras and isinstance(space, gym.spaces.Discrete):
        return Bars("policy", act.extras["logits"][0].float().softmax(-1).cpu().numpy(), 0.0)
    return None


@torch.no_grad()
def replay(
    actor: Actor, config: EnvConfig, episode: ScoredEpisode, device: torch.device | str = "cpu", explain: str | None = None
) -> Iterator[Moment]:
    """Plays a scored episode again; raises if it doesn't earn the same rewards step by step.

    explain: saliency, guided or occlusion, for a heat map of the action that was played, which need not be the likeliest one.
    """
    with opened(config, device) as (envs, screen):
        if explain:
            check_explanation(explain, actor, envs.spec, device)
        ts, state = envs.restart(np.array([episode.seed])), actor.initial_state(1)
        picture, score = screen.first(episode.seed), 0.0
        for action, scored in zip(episode.actions, episode.rewards, strict=True):
            act = actor.act(ts, state, explore=False)
            value, played = start_values(act), torch.as_tensor(action)[None]
            heat = None
            if explain:
                network = actor.network
                heat = EXPLANATIONS[explain](network, ts.obs, ts.first, state, played.to(ts.obs.device)).cpu().numpy()
            envs.send(played)
            ts, state = envs.recv(), act.state
            next_picture, twins = screen.next(action)
            reward = float(envs.host.reward[0])
            check_reward(config, episode, reward if twins is None or reward != float(scored) else twins, float(scored))
            bars, returns = bars_of(act, envs.single_action_space), returns_of(act, played)
            yield Moment(picture, action.tolist(), reward, score, bars, None if value is None else float(value[0]), returns, heat)
            picture, score = next_picture, score + reward
        yield Moment(picture, 0, 0.0, score, None, None)


def check_reward(config: EnvConfig, episode: ScoredEpisode, reward: float, scored: float) -> None:
    """TrainingFailed if a step's reward differs from the scored one."""
    if reward != scored:
        own = "" if is_atari(config.id) else "does it use randomness that reset(seed) doesn't set? "
        raise TrainingFailed(
            f"the replay of {config.id} earned {reward:g} at a step that earned {scored:g} when it was scored",
            where=f"seed {episode.seed}",
            fix=f"{own}was it scored with another version of {'ale-py' if is_atari(config.id) else 'the environment'}?",
        )


def frames_per_second(config: EnvConfig) -> Fraction:
    """Pictures a second at the game's real speed: 15 on Atari, where a step is 4 of 60 frames."""
    if is_atari(config.id):
        from arcturus.envs.atari import FRAME_SKIP, FRAMES_PER_SECOND

        return Fraction(FRAMES_PER_SECOND, FRAME_SKIP)
    spec = gym.spec(registered(config.id))
    entry = spec.entry_point
    creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    told = (getattr(creator, "metadata", None) or {}).get("render_fps")
    return Fraction(told).limit_denominator(1_000) if isinstance(told, (int, float)) and 0.1 <= told <= 1_000 else Fraction(30)


def write_film(
    path: Path,
    actor: Actor,
    config: EnvConfig,
    episode: ScoredEpisode,
    *,
    title: str = "",
    device: str = "cpu",
    steps: int | None = None,
    explain: str | None = None,
) -> int:
    """Films an episode (or its first `steps` pictures) as .mp4 (H.264) or .gif; returns the number of pictures.

    explain: as in replay(), laid over the game.
    """
    check_output(path, "--video", FILMS)
    rate = frames_per_second(config)
    canvas = Canvas(config, title or config.id, float(1 / rate), explain)
    count = 0

    def pictures() -> Iterator[Image.Image]:
        nonlocal count
        for count, moment in enumerate(islice(replay(actor, config, episode, device, explain), steps), 1):  # noqa: B007
            yield canvas.draw(moment)

    write = _write_gif if path.suffix == ".gif" else _write_mp4
    with torch_threads(1):
        written_beside(path, lambda beside: write(beside, pictures(), rate))
    return count


def _write_mp4(path: Path, pictures: Iterator[Image.Image], rate: Fraction) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for image in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
                stream.width, stream.height, stream.pix_fmt = image.width // 2 * 2, image.height // 2 * 2, "yuv420p"
            frame = av.VideoFrame.from_image(image.crop((0, 0, stream.width, stream.height)))
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _write_gif(path: Path, pictures: Iterator[Image.Image], rate: Fraction) -> None:
    frames = (image.quantize(128, dither=Image.Dither.NONE) for image in pictures)
    next(frames).save(path, format="GIF", save_all=True, append_images=frames, duration=round(1000 / rate), loop=0)


def value_figure(
    path: Path, actor: Actor, config: EnvConfig, episode: ScoredEpisode, *, device: str = "cpu"
) -> tuple[int, int, int]:
    """Draws the predicted value over an episode with the pictures at its rise, peak and fall; returns their steps."""
    from arcturus.pictures.style import save  # it loads matplotlib
    from arcturus.pictures.value import turning_points, value_trace

    check_output(path, "--value-figure", PICTURES)
    values = np.array([m.value for m in replay(actor, config, episode, device) if m.value is not None])
    if not len(values):
        raise ConfigError("this agent predicts no value", where="--value-figure")
    points = turning_points(values)
    pictures = {i: m.picture for i, m in enumerate(replay(actor, config, episode, device)) if i in points}
    title = f"{config.id}: value predicted while playing (episode seed {episode.seed}, score {episode.score:g})"
    save(value_trace(values, pictures, points, title), path)
    return points
