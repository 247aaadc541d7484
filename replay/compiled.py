"""Replay's small loops for the CPU, compiled by Numba: the same as the tensor code in ring.py, sum_tree.py and prioritised.py.

A minibatch is about thirty rows.  With tensors that takes dozens of operations, which cost more to call than to compute; as one loop
it takes a few microseconds.  The tensor code runs on a GPU and defines what these loops must compute: tests check that both give the
same numbers.  Compiled code is kept beside this file, or in the user's cache, so that only the first run waits for it.
"""

from __future__ import annotations

import numpy as np

from arcturus.speed import numba_loop


@numba_loop
def transitions(t, n, rows, stack, n_step, gamma, clip, last, zero_discount, valid, age, flags, reward):
    """Ring.transitions() without the copying: t, n [B]; age, flags, reward [rows, N].

    Returns the frames' slots ([B, stack + 1] if n_step is 1, else [2 B, stack]: the first's, then the last's), the rows' own slots,
    rewards, discounts and weights, [B] each.
    """
    batch, num_envs = len(t), age.shape[1]
    blank = rows * num_envs
    frames = np.empty((batch, stack + 1) if n_step == 1 else (2 * batch, stack), np.int64)
    slot = np.empty(batch, np.int64)
    r_t, discount_t, weight = np.empty(batch, np.float32), np.empty(batch, np.float32), np.empty(batch, np.float32)
    for b in range(batch):
        at, env = t[b] % rows, n[b]
        old, length = np.int64(age[at, env]), 1
        slot[b] = at * num_envs + env
        weight[b] = 1.0 if flags[at, env] & valid else 0.0
        total, discount = np.float32(0.0), np.float32(1.0)
        for k in range(1, n_step + 1):
            there = (t[b] + k) % rows
            r = reward[there, env]
            if clip > 0:
                r = clip if r > clip else -clip if r < -clip else r
            total += discount * r
            flag, length = flags[there, env], k
            discount *= np.float32(0.0) if flag & zero_discount else gamma
            if flag & (last | zero_discount):
                break
        r_t[b], discount_t[b] = total, discount
        for k in range(frames.shape[1]):
            offset = k + 1 - stack
            frames[b, k] = env * rows + (t[b] + offset) % rows if old >= -offset else blank
        if n_step > 1:
            for k in range(stack):
                offset = length + k + 1 - stack
                frames[batch + b, k] = env * rows + (t[b] + offset) % rows if old >= -offset else blank
    return frames, slot, r_t, discount_t, weight


@numba_loop
def draw(coin, width, numbers, block):
    """SumTree.draw(): one place in each of len(coin) equal parts of the sum, coin [B] float64 says where in it."""
    batch = len(coin)
    total = block.sum()
    index = np.empty(batch, np.int64)
    at, before = 0, np.int64(0)  # places come in order, so blocks are walked through once
    for b in range(batch):
        place = min(np.int64((coin[b] + b) * total / batch), total - 1)
        while before + block[at] <= place:
            before += block[at]
            at += 1
        inside = at * width
        rest = place - before - numbers[inside]
        while rest >= 0:
            inside += 1
            rest -= numbers[inside]
        index[b] = inside
    return index


@numba_loop
def change(index, value, width, numbers, block):
    """SumTree.set()."""
    for b in range(len(index)):
        i = index[b]
        block[i // width] += value[b] - numbers[i]
        numbers[i] = value[b]


@numba_loop
def importance(index, numbers, beta):
    """Weights [B] float32 of what Priorities.draw() drew."""
    least = numbers[index[0]]
    for i in index:
        least = min(least, numbers[i])
    weight = np.empty(len(index), np.float32)
    for b in range(len(index)):
        p = numbers[index[b]]
        weight[b] = (np.float64(least) / np.float64(p)) ** beta if p > 0 else 0.0
    return weight


@numba_loop
def priorities(index, error, numbers, largest, alpha, least, unit, most):
    """The new priorities [B] of Priorities.set(), and the largest of all in largest [1]."""
    value = np.empty(len(index), np.int64)
    for b in range(len(index)):
        before, e = numbers[index[b]], np.float64(error[b])
        if np.isfinite(e) and before > 0:
            p = (abs(e) + least) ** alpha * unit
            value[b] = most if p >= most else np.int64(max(p, 1.0))
        else:
            value[b] = before
        largest[0] = max(largest[0], value[b])
    return value


@numba_loop
def shifted(images, down, right):
    """augmentation.shifted(): images [B, C, H, W], down, right [B]."""
    batch, channels, height, width = images.shape
    out = np.empty((batch, channels, height, width), images.dtype)
    for b in range(batch):
        move = right[b]
        first, end = min(max(move, 0), width), max(min(width + move, width), 0)  # columns that are not a repeated edge
        for c in range(channels):
            for i in range(height):
                row = min(max(i - down[b], 0), height - 1)
                for j in range(first):
                    out[b, c, i, j] = images[b, c, row, 0]
                for j in range(first, end):
                    out[b, c, i, j] = images[b, c, row, j - move]
                for j in range(end, width):
                    out[b, c, i, j] = images[b, c, row, width - 1]
    return out
