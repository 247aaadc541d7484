#!/usr/bin/env bash
# ale-py 0.12.1: not every Atari screen is 210 x 160.
# Expected: (210, 160), as papers, buffers and crops have it for every game.
# What happens: 13 of the 104 games that Gymnasium offers are taller: Carnival 214, Pooyan 220, Journey Escape 230, and ten have 250
# lines: Adventure, Air Raid, Keystone Kapers, King Kong, Klax, Laser Gates, Mr. Do, Pacman, Sir Lancelot, Space War. In most of them
# lines 210 and up show part of the picture. AtariVectorEnv makes 84 x 84 of all, so a sprite there is a sixth flatter (84/250 : 84/210).
# Seen: "13 of 104", King Kong with 19 lines of picture below line 210, observation space (250, 160, 3) for ALE/KingKong-v5.
# Hurt: arrays and films of a fixed (210, 160, 3) (an error or a cut picture), crops by line number, one network for several games.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import ale_py
import gymnasium
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

ALEInterface.setLoggerMode(LoggerMode.Error)
gymnasium.register_envs(ale_py)
games = sorted({spec.kwargs["game"] for spec in gymnasium.registry.values() if spec.entry_point == "ale_py.env:AtariEnv"})
tall, drawn = {}, {}
for game in games:
    ale = ALEInterface()
    ale.setInt("random_seed", 1)
    ale.loadROM(roms.get_rom_path(game))
    height, width = ale.getScreenDims()
    assert width == 160
    if height == 210:
        continue
    ale.reset_game()
    actions, rng, lines = ale.getMinimalActionSet(), np.random.default_rng(0), 0
    for frame in range(1200):
        ale.act(actions[rng.integers(len(actions))])
        if ale.game_over():
            ale.reset_game()
        if frame >= 600 and frame % 20 == 0:
            below = ale.getScreen()[210:]
            lines = max(lines, int((below != below[:, :1]).any(axis=1).sum()))
    tall[game], drawn[game] = height, lines
    print(f"{game}: {height} lines; {lines} of those from 210 on show more than a plain colour")
print(f"{len(tall)} of {len(games)} games are taller than 210 lines")
space = gymnasium.make("ALE/KingKong-v5").observation_space.shape
small = AtariVectorEnv("king_kong", num_envs=1).single_observation_space.shape
print("ALE/KingKong-v5:", space, " AtariVectorEnv:", small)
assert len(games) == 104 and sorted(tall.values()) == [214, 220, 230] + [250] * 10
assert sum(lines > 0 for lines in drawn.values()) >= 9 and space == (250, 160, 3) and small == (4, 84, 84)
EOF
