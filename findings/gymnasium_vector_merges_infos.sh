#!/usr/bin/env bash
# Gymnasium 1.4.0, SyncVectorEnv: infos that nobody reads make valid environments raise, or hold wrong numbers.
# Expected: info is free-form, so a list of legal moves as an array is fine; check_env has nothing against it, each copy runs alone.
# What happens: the vector environment stacks the copies' arrays into one of the FIRST copy's shape. Two copies with another number of
# legal moves in the same step: ValueError from step(). One legal move: no error, it is silently broadcast over the whole row.
# Seen: "ValueError: could not broadcast input array from shape (7,) into shape (6,)" in the third step of a board of nine fields; and
# [4] next to [1, 3, 5] becomes [4, 4, 4], under a mask that says True.
# Hurt: board and card games with masks of moves: training dies in the middle (copies agree for the first steps), or samples a move
# from a list that is wrong. A mask of fixed length is safe.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet gymnasium==1.4.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv


class Board(gymnasium.Env):
    """Nine fields, each to be taken; info lists the free ones."""

    observation_space = gymnasium.spaces.Box(0, 1, (9,), np.float32)
    action_space = gymnasium.spaces.Discrete(9)

    def __init__(self, taken=()):
        self.taken = list(taken)

    def now(self):
        return self.board.copy(), {"legal": np.flatnonzero(self.board == 0)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.board = np.zeros(9, np.float32)
        self.board[self.taken] = 1
        return self.now()

    def step(self, action):
        self.board[action] = 1
        observation, info = self.now()
        return observation, 0.0, bool(self.board.all()), False, info


gymnasium.register("Board-v0", Board)
check_env(gymnasium.make("Board-v0").unwrapped)
courses = ([0, 2, 4], [1, 2, 2])
for actions in courses:  # each alone
    env = gymnasium.make("Board-v0")
    env.reset(seed=0)
    for action in actions:
        env.step(action)
envs = SyncVectorEnv([Board, Board])
envs.reset(seed=0)
raised = None
for number, actions in enumerate(zip(*courses), start=1):
    try:
        envs.step(np.array(actions))
    except ValueError as error:
        raised = number, str(error)
        print(f"step {number}: ValueError: {error}")
assert raised == (3, "could not broadcast input array from shape (7,) into shape (6,)"), "infos of unequal length are merged now"

envs = SyncVectorEnv([lambda: Board([0, 2, 4, 6, 7, 8]), lambda: Board([0, 1, 2, 3, 5, 6, 7, 8])])
info = envs.reset(seed=0)[1]
print("legal:", info["legal"].tolist(), " is it there?", info["_legal"].tolist())
assert info["legal"].tolist() == [[1, 3, 5], [4, 4, 4]] and info["_legal"].all()
EOF
