#!/usr/bin/env bash
# MinAtar 1.0.15 with Gymnasium 1.4.0's RecordVideo (moviepy 2.2.1): the film of every game is black.
# Expected: render_mode="rgb_array" gives bytes from 0 to 255, as Gymnasium's own environments do, and RecordVideo writes a film that shows the game.
# What happens: MinAtar's render() gives float64 colours from 0 to 1; RecordVideo hands them on as they are, and as bytes they are all 0.
# There is no error and no warning of it. The observations are right, so learning is not concerned.
# Seen: five games, highest colour given 0.81 to 0.95 as float64 of 10 x 10; highest byte of the film 0; with the colours times 255 as bytes, 206 to 241.
# Hurt: films of evaluation, and pictures in trackers, that look as if the environment had failed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet minatar==1.0.15 gymnasium==1.4.0 moviepy==2.2.1
venv/bin/python -W ignore - <<'EOF'
import glob
import tempfile

import gymnasium as gym
import minatar.gym
import numpy as np
from gymnasium.wrappers import RecordVideo
from moviepy import VideoFileClip

gym.logger.min_level = 50
minatar.gym.register_envs()


class Bytes(gym.Wrapper):
    def render(self):
        return (self.env.render() * 255).astype(np.uint8).repeat(16, 0).repeat(16, 1)


class Large(gym.Wrapper):
    def render(self):  # the same floats on a larger picture, so that neither the size nor the film's coding is what makes it black
        return self.env.render().repeat(16, 0).repeat(16, 1)


def brightest(env):
    """The highest colour that is drawn, and the highest byte of the film."""
    folder = tempfile.mkdtemp()
    film = RecordVideo(env, folder, disable_logger=True)
    film.reset(seed=0)
    film.action_space.seed(0)
    drawn, over = 0.0, False
    for _ in range(30):
        drawn = max(drawn, float(film.env.render().max()))
        over = film.step(film.action_space.sample())[2]
        if over:
            break
    film.close()
    (path,) = glob.glob(f"{folder}/*.mp4")
    with VideoFileClip(path) as clip:
        return drawn, max(int(picture.max()) for picture in clip.iter_frames())


for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"):
    env = lambda: gym.make(f"MinAtar/{name}-v1", render_mode="rgb_array")
    one = env()
    one.reset(seed=0)
    kind = one.render()
    assert (kind.dtype, kind.shape) == (np.float64, (10, 10, 3)), (kind.dtype, kind.shape)
    given, filmed = brightest(Large(env()))
    _, mended = brightest(Bytes(env()))
    print(f"{name}: colours as {kind.dtype} up to {given:.2f}; the film's brightest byte {filmed}; as bytes {mended}")
    assert 0 < given <= 1 and filmed == 0 and mended > 100, "MinAtar draws bytes now, or RecordVideo scales floats"
EOF
