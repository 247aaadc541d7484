#!/usr/bin/env bash
# ale-py 0.12.1: after 65,209 frames a game of Pong that isn't over goes dead, and its points are taken back as a reward.
# Expected: a game lasts until somebody has 21 points; a reward is a point that was won or lost.
# What happens: the console's counter of frames runs over 18 minutes after the reset and the cartridge falls back to its title screen,
# which shows the game's number, 1, where the opponent's points were. As ale-py's reward is the change of the points' difference, that is
# paid: who is behind gets back what he lost. From then on the ball stands still whatever one does, and game_over() stays False.
# Seen: a player who loses the first 6 points and then follows the ball stands at 2:6 from frame 10,724 on; at frame 65,210 comes one
# more reward, +5, and the points are 2:1. In the 4,000 frames after it the ball doesn't move.
# Hurt: the usual limit is 108,000 frames. An agent whose rallies are long, a sign of good defence, is scored by what the overflow
# pays, and 42,000 dead frames of every such game go into its replay memory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet ale-py==0.12.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)
ale = ALEInterface()
ale.setInt("random_seed", 0)
ale.setFloat("repeat_action_probability", 0.0)
ale.loadROM(roms.get_rom_path("pong"))
ale.reset_game()
OPPONENT, OWN, BALL_X, PADDLE, BALL_Y = 13, 14, 49, 51, 54  # bytes of the console's memory


def player(ram, frame):
    """Lets six points go, then follows the ball."""
    if frame <= 1000:
        return Action.NOOP
    if ram[BALL_X] == 0:  # no ball: serve
        return Action.FIRE if frame % 2 else Action.NOOP
    above = int(ram[BALL_Y]) - int(ram[PADDLE]) - 8
    return Action.LEFT if above > 2 else Action.RIGHT if above < -2 else Action.NOOP


rewards, points = [], {}
for frame in range(1, 66_001):
    reward = ale.act(player(ale.getRAM(), frame))
    if reward:
        rewards.append((frame, reward))
    if frame in (65_200, 65_300):
        points[frame] = (int(ale.getRAM()[OWN]), int(ale.getRAM()[OPPONENT]))
print(f"rewards: {rewards}\npoints (own, the opponent's) by frame: {points}; game over: {ale.game_over()}")
assert points == {65_200: (2, 6), 65_300: (2, 1)} and not ale.game_over()
assert [r for f, r in rewards if f > 65_200] == [5], "points are kept now"
actions, rng, balls = ale.getMinimalActionSet(), np.random.default_rng(0), set()
for frame in range(4000):
    if frame % 4 == 0:
        action = actions[rng.integers(len(actions))]
    assert ale.act(action) == 0
    balls.add((int(ale.getRAM()[BALL_X]), int(ale.getRAM()[BALL_Y])))
print(f"places of the ball in the next 4,000 frames of random actions: {len(balls)}; game over: {ale.game_over()}")
assert len(balls) == 1 and not ale.game_over()
EOF
