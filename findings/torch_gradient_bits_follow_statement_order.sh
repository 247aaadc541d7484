#!/usr/bin/env bash
# torch 2.13.0: which of two terms of a loss is COMPUTED first decides bits of the gradient, though neither reads the other and both are
# summed in the same order.
# Expected: log-probability and entropy are pure functions of the logits; swapping the two lines that compute them changes nothing.
# What happens: the backward pass visits nodes by when they were made, newest first, and adds each one's gradient to the logits' as it comes.
# With two contributions a + b is b + a; a policy over bits reads its logits twice in each term (for 1 and for 0), which makes four, and
# floating-point sums of four depend on their order. A policy with one softmax, two contributions in all, is indifferent.
# Hurt: a refactoring that only moved a line is no longer bit-identical, from the first update on, for bits and not for one choice of many,
# so that a test with a Discrete space passes; a resumed run under the new code is then no exact continuation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > order.py <<'EOF'
import torch
import torch.nn.functional as F

g = torch.Generator().manual_seed(0)
LOGITS, ADVANTAGE = torch.randn(64, 32, generator=g), torch.randn(64, 32, generator=g)


def bits(x):
    """log pi of a 1 and of a 0."""
    return F.logsigmoid(x), F.logsigmoid(-x)


def choices(x):
    return (x.log_softmax(-1),)


def gradient(policy, entropy_first):
    x = LOGITS.clone().requires_grad_()

    def log_prob():
        return sum((ADVANTAGE * log_pi * sign).sum() for log_pi, sign in zip(policy(x), (1, -1)))

    def entropy():
        return -sum((log_pi.exp() * log_pi).sum() for log_pi in policy(x))

    if entropy_first:
        h = entropy()
        l = log_prob()
    else:
        l = log_prob()
        h = entropy()
    (l + 0.01 * h).backward()
    return x.grad


for name, policy, same in (("bits", bits, False), ("one of 32", choices, True)):
    one, two = gradient(policy, False), gradient(policy, True)
    assert torch.equal(one, gradient(policy, False)), "not even repeatable"
    print(f"{name}: equal bits {torch.equal(one, two)}, largest difference {float((one - two).abs().max()):.1e}")
    assert torch.equal(one, two) is same, "the behaviour has changed"
EOF
venv/bin/python order.py
