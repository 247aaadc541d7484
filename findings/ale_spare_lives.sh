#!/usr/bin/env bash
# ale-py 0.12.1: in some games lives() counts only the SPARE lives.
# Expected: lives() says how many are left, the one being played included, so that 0 means game over; the usual test for "a life was
# lost while the game goes on", fewer lives and lives > 0, then finds every loss but the last.
# What happens: that holds for Breakout or Space Invaders, but in Atlantis, Bank Heist, Donkey Kong, Frogger, Mr. Do, Sir Lancelot and
# Turmoil 0 is reached while the last life is still being played, acted on and paid for, for hundreds of frames, without game_over().
# Seen over three games each of random play: e.g. "frogger: ... 12 losses before game over, 9 with lives > 0, then 473 frames and 4
# points at lives() == 0"; Breakout and Space Invaders: 0 frames.
# Hurt: agents that learn from lives (episodic-life wrappers as everybody copies them): the loss of the last spare life is never seen.
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
SPARE = ["atlantis", "bank_heist", "donkey_kong", "frogger", "mr_do", "sir_lancelot", "turmoil"]
paid = []
for game in SPARE + ["breakout", "space_invaders"]:
    ale = ALEInterface()
    ale.setInt("random_seed", 1)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(game))
    actions, rng = ale.getMinimalActionSet(), np.random.default_rng(0)
    losses = usual = frames = reward = 0
    for _ in range(3):
        ale.reset_game()
        ale.act(0)  # the value at the reset itself is wrong in some games
        lives, frame = ale.lives(), 0
        while not ale.game_over() and frame < 12_000:
            if frame % 4 == 0:
                action = actions[rng.integers(len(actions))]
            at_zero = lives == 0
            points = ale.act(action)
            frame += 1
            reward += points * at_zero
            now = ale.lives()
            if not ale.game_over():
                frames += at_zero
                losses += now < lives
                usual += 0 < now < lives
            lives = now
    print(f"{game}: {losses} losses before game over, {usual} with lives > 0, "
          f"then {frames} frames and {reward:g} points at lives() == 0")
    if game in SPARE:
        assert losses == usual + 3 and frames > 150, "lives() counts the life being played now"
        paid.append(reward > 0)
    else:
        assert losses == usual and frames == 0
assert sum(paid) >= 5, "no rewards at zero lives any more"
EOF
