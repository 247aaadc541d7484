#!/usr/bin/env bash
# stable-baselines3 2.9.2: its two RMSprops, of the same settings, differ 25,000-fold in the first step, and A2C takes torch's.
# Expected: RMSpropTFLike ("closer match to Tensorflow version", "stabler learning" with A2C) differs from torch's by a detail of epsilon,
# and A2C, for which it was written, uses it.
# What happens: its mean square begins at 1, torch's at 0. With A2C's settings (lr 7e-4, alpha 0.99, eps 1e-5) and a gradient of 3e-4 the
# first step is 2.1e-7 against 5.3e-3, a factor of 24,875; after 500 steps still 263. Where eps counts they never meet: 10 for good.
# A2C's default is torch.optim.RMSprop.
# Seen: "step 1: 2.111e-07 and 5.250e-03, 24,875 times", "step 3000: 6.611e-05 and 6.774e-04, 10.2 times", default torch.optim.rmsprop.RMSprop.
# Hurt: whoever compares with TensorFlow's results, or carries lr and eps over from one to the other: the start of training is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
venv/bin/python - <<'EOF'
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

default = A2C("MlpPolicy", "CartPole-v1", device="cpu").policy.optimizer
settings = {key: default.defaults[key] for key in ("lr", "alpha", "eps")}
print(f"A2C's default: {type(default).__module__}.{type(default).__name__} {settings}")
assert type(default) is torch.optim.RMSprop and settings == {"lr": 7e-4, "alpha": 0.99, "eps": 1e-5}


def steps(optimiser, number):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    rule, moved = optimiser([weight], **settings), []
    for _ in range(number):
        before = weight.item()
        weight.grad = torch.full_like(weight, 3e-4)
        rule.step()
        moved.append(before - weight.item())
    return moved


like_tf, like_torch = steps(RMSpropTFLike, 3000), steps(torch.optim.RMSprop, 3000)
times = {}
for number in (1, 10, 100, 500, 1000, 3000):
    a, b = like_tf[number - 1], like_torch[number - 1]
    times[number] = b / a
    print(f"step {number}: {a:.3e} and {b:.3e}, {times[number]:,.{0 if times[number] > 100 else 1}f} times")
assert 24_000 < times[1] < 26_000 and 200 < times[500] < 300 and 10 < times[3000] < 10.5
EOF
