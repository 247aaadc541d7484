#!/usr/bin/env bash
# Minigrid 3.2.0 with Gymnasium 1.4.0: FlattenObservation, the usual advice for Dict observations, fails on every Minigrid environment.
# Expected: an observation is a Dict of an image, a direction and a text (the mission); Gymnasium flattens Dict and Text spaces, so
# FlattenObservation makes a vector of it.
# What happens: the mission is of Minigrid's own MissionSpace, which is no Text space, and Gymnasium knows no way to flatten it. Wrapping
# raises a NotImplementedError with an EMPTY message, although check_env passes and the mission of Empty is always the same sentence.
# Seen: "NotImplementedError: ''" from FlattenObservation; without the mission (FilterObservation) a Box of 151 numbers; the same Dict
# with a Text in the mission's place flattens.
# Hurt: programs that flatten any Dict observation (and the user, whom no message tells which of the three parts is to blame).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet minigrid==3.2.0 gymnasium==1.4.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import gymnasium
import minigrid
from gymnasium.spaces import Dict, Text
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FilterObservation, FlattenObservation

for name in ("MiniGrid-Empty-5x5-v0", "MiniGrid-GoToDoor-5x5-v0", "BabyAI-GoToRedBall-v0"):
    env = gymnasium.make(name)
    check_env(env.unwrapped, skip_render_check=True)
    mission = env.observation_space["mission"]
    try:
        FlattenObservation(env)
    except NotImplementedError as error:
        print(f"{name}: {type(mission).__name__}, NotImplementedError: {str(error)!r}")
        assert str(error) == ""
    else:
        raise AssertionError("the mission flattens now")
    assert not isinstance(mission, Text)
    rest = FlattenObservation(FilterObservation(env, ["image", "direction"])).observation_space
    text = gymnasium.spaces.flatten_space(Dict({**env.observation_space.spaces, "mission": Text(100)}))
    print(f"  without the mission {rest.shape}, with a Text as the mission {text.shape}")
    assert rest.shape == (151,) and text.shape == (251,)
EOF
