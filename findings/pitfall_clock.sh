#!/usr/bin/env bash
# ale-py 0.12.1: Pitfall's clock of twenty minutes runs out and the game stands still, but game_over() never comes.
# Expected: a game that has run out of time is over.
# What happens: at frame 72,000 the clock on the screen is at 0:00. From then on no action moves anything: two different sequences of
# random actions give the very same screens. lives() stays 3, game_over() stays False, no reward comes.
# Seen (NOOP till then): clock 03:20 at frame 60,000 and 00:00 at 72,000; two random sequences of 1,500 frames differ in all 1,500
# screens from frame 60,000 and in none from frame 72,500; game over: False.
# Hurt: with the usual limit of 108,000 frames (half an hour) a third of such an episode is a still picture, for which a patient agent
# (Pitfall's best known behaviour is to stay where it is safe) is trained, and which fills its replay memory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet ale-py==0.12.1 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)
ale = ALEInterface()
ale.setInt("random_seed", 1)
ale.setFloat("repeat_action_probability", 0.0)
ale.loadROM(roms.get_rom_path("pitfall"))


def play(start, seed):
    """1,500 frames of random actions from a saved state: the screens, the reward, lives and whether it is over."""
    ale.restoreSystemState(start)
    actions, rng, screens, reward = ale.getMinimalActionSet(), np.random.default_rng(seed), [], 0
    for frame in range(1500):
        if frame % 4 == 0:
            action = actions[rng.integers(len(actions))]
        reward += ale.act(action)
        screens.append(ale.getScreen().tobytes())
    return screens, reward, ale.lives(), ale.game_over()


ale.reset_game()
saved = {}
for frame in range(1, 72_501):
    ale.act(0)
    assert not ale.game_over(), f"game over at frame {frame}: mended"
    if frame in (60_000, 72_000, 72_500):
        saved[frame] = ale.cloneSystemState()
        minutes, seconds = (int(byte) for byte in ale.getRAM()[0x58:0x5A])
        print(f"frame {frame}: clock {minutes:02x}:{seconds:02x}, lives {ale.lives()}")
        assert (minutes, seconds) == ((0x03, 0x20) if frame == 60_000 else (0, 0))
differ = {}
for frame in (60_000, 72_500):
    (one, *_), (other, reward, lives, over) = play(saved[frame], 1), play(saved[frame], 2)
    differ[frame] = sum(a != b for a, b in zip(one, other))
    print(f"from frame {frame}: {differ[frame]} of 1500 screens differ between two sequences of random actions; game over {over}")
assert differ[60_000] > 1400 and differ[72_500] == 0 and (reward, lives, over) == (0, 3, False), "the end is noticed now"
EOF
