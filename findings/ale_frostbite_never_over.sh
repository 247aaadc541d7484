#!/usr/bin/env bash
# ale-py 0.12.1: a game of Frostbite that is lost by freezing on the last life never ends.
# Expected: whoever loses the last life gets game_over() == True.
# What happens: the temperature falls to 0 and takes lives 4, 3, 2 after 3,137 frames each. On the last life the player freezes, lives()
# stays 1, no button changes a pixel any more, and 2,000 frames later lives() JUMPS from 1 to 4: the console now shows its demonstration.
# game_over() stays False to the end; nothing is ever paid again.
# Seen under NOOP: lives 4->3 at frame 3137, 3->2 at 6273, 2->1 at 9409, 1->4 at 14578, game_over False and reward 0 at frame 20000.
# Hurt: timid agents. An episode runs on to the frame limit (108,000), its replay is full of screens of a dead game, and a program that
# takes a rise of lives for a bonus life sees three of them.
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
ale.loadROM(roms.get_rom_path("frostbite"))


def play(start, end, rng=None):
    """From frame `start` to frame `end`: NOOP, or random actions."""
    actions, lives, changes, screens, reward = ale.getMinimalActionSet(), ale.lives(), [], [], 0
    for frame in range(start + 1, end + 1):
        if frame % 4 == 1:
            action = 0 if rng is None else actions[rng.integers(len(actions))]
        reward += ale.act(action)
        assert not ale.game_over(), f"game over at frame {frame}: mended"
        if ale.lives() != lives:
            changes.append((frame, lives, ale.lives()))
            lives = ale.lives()
        screens.append(ale.getScreen().tobytes())
    return changes, screens, reward


ale.reset_game()
first, _, paid = play(0, 12_600)
frozen = ale.cloneSystemState()
later, still, more = play(12_600, 20_000)
for frame, before, after in first + later:
    print(f"frame {frame}: lives {before} -> {after}")
print(f"frame 20000: game_over {ale.game_over()}, reward {paid + more}")
assert first + later == [(3137, 4, 3), (6273, 3, 2), (9409, 2, 1), (14578, 1, 4)] and paid == more == 0

ale.restoreSystemState(frozen)
changes, pressed, reward = play(12_600, 20_000, np.random.default_rng(1))
same = next(i for i, (a, b) in enumerate(zip(still, pressed)) if a != b)
print(f"random buttons from frame 12600 on: {changes}, reward {reward}, not a pixel differs for {same} frames")
assert changes == later and reward == 0 and same > 2_000
EOF
