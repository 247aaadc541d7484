#!/usr/bin/env bash
# Gymnasium 1.4.0, SyncVectorEnv: numbers in info lose their fractions when the FIRST copy's number happens to be an int.
# Expected: info["progress"] of 0 and 0.75 in two copies comes out as [0, 0.75], in whatever order the copies stand.
# What happens: the merged array has the type of the first copy's value. 0 is an int, so the array holds integers and 0.75 becomes 0;
# and after False every number becomes True. No warning, and the mask says that the value is there.
# Seen: [0, 0.75] merged to [0, 0], [0.75, 0] to [0.75, 0.0], [False, 7] to [True] for the 7.
# Hurt: whoever logs or learns from numbers in info: an environment that says 0 at the start, or a Python int when a score is whole,
# gives cut numbers, in some steps and not in others, depending on what another copy does.
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


class Walk(gymnasium.Env):
    """info says how far it has come."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, progress=0):
        self.progress = progress

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"progress": self.progress}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"progress": self.progress}


gymnasium.register("Walk-v0", Walk)
check_env(gymnasium.make("Walk-v0", progress=0.75).unwrapped)
merged = {}
for pair in ((0, 0.75), (0.75, 0), (False, 7)):
    envs = SyncVectorEnv([lambda value=value: Walk(value) for value in pair])
    info = envs.reset(seed=0)[1]
    merged[pair] = info["progress"].tolist()
    print(f"{list(pair)} merged: {merged[pair]} ({info['progress'].dtype}), is it there? {info['_progress'].tolist()}")
    assert info["_progress"].all() and envs.step(np.zeros(2, int))[4]["progress"].tolist() == merged[pair]
assert list(merged.values()) == [[0, 0], [0.75, 0.0], [False, True]], "numbers keep their fractions now"
EOF
