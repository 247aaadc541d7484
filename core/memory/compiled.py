"""The Neural Turing Machine and the DNC on the CPU: their loops, compiled by Numba.  ntm.py, heads.py and dnc.py define what they compute;
tests hold both to the same numbers and gradients.

With tensors a step is some hundred operations, forward and backward, most of them too small for their overhead; here every memory is read
once forward and once backward.  Slots lie side by side (memory [W, S], the transpose of the definitions'), so that inner loops run along
them.  All loops stand in this file because Numba keeps compiled code until the file of the calling loop changes; who changes EPSILON, TINY
or CLIP must remove it (core/memory/__pycache__).

Sizes and names are the definitions'; arrays without N are one environment's.  Of an NTM's heads q [P] is p activated, its groups in p's
order, gamma without its 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from arcturus.memory.addressing import EPSILON, TINY
from arcturus.memory.heads import CLIP
from arcturus.speed import numba_loop

f = np.float32


def loop(function: Callable) -> Callable:
    return numba_loop(function, reorder=True)


# -- numbers -------------------------------------------------------------------------------------------------------------
# The C library's exp and log are called once for every number, at seven times the time: these are written so that the compiler works on
# several float32 at a time.  Range reductions and polynomials are those of Cephes (Moshier, expf and logf), within 2e-7 of the value.


@loop
def exp32(x):
    """e^x = 2^n e^r, |r| <= log(2) / 2; x is clipped to [-87, 88].  Not a number stays so."""
    given = x
    x = min(max(x, f(-87.0)), f(88.0))
    n = np.floor(x * f(1.4426950408889634) + f(0.5))
    r = x - n * f(0.693359375) + n * f(2.12194440e-4)
    y = f(1.9875691500e-4)
    y = y * r + f(1.3981999507e-3)
    y = y * r + f(8.3334519073e-3)
    y = y * r + f(4.1665795894e-2)
    y = y * r + f(1.6666665459e-1)
    y = y * r + f(5.0000001201e-1)
    y = y * r * r + r + f(1.0)
    y = y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return y if given == given else given


@loop
def log32(x):
    """log(m 2^n) = n log(2) + log(m), m in [sqrt(1/2), sqrt(2)); x is a positive normal number, or infinite or not a number and stays so."""
    bits = np.float32(x).view(np.int32)
    n = f(np.int32((bits >> np.int32(23)) - np.int32(126)))
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # in [1/2, 1)
    low = m < f(0.70710678)
    n = n - (f(1.0) if low else f(0.0))
    r = (m + m if low else m) - f(1.0)
    z = r * r
    y = f(7.0376836292e-2)
    y = y * r + f(-1.1514610310e-1)
    y = y * r + f(1.1676998740e-1)
    y = y * r + f(-1.2420140846e-1)
    y = y * r + f(1.4249322787e-1)
    y = y * r + f(-1.6668057665e-1)
    y = y * r + f(2.0000714765e-1)
    y = y * r + f(-2.4999993993e-1)
    y = y * r + f(3.3333331174e-1)
    y = y * r * z - n * f(2.12194440e-4) - f(0.5) * z
    return r + y + n * f(0.693359375) if x < f(np.inf) else x


def exp(x):
    """Of float64 the C library's, of float32 exp32."""
    return math.exp(x)


def log(x):
    return math.log(x)


@overload(exp, inline="always")
def _exp(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(log, inline="always")
def _log(x):
    return (lambda x: log32(x)) if x == types.float32 else (lambda x: math.log(x))


@loop
def dot(a, b):
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@loop
def add_scaled(into, c, x):
    """into += c x"""
    for i in range(len(into)):
        into[i] += c * x[i]


@loop
def softmax(x):
    """In place."""
    highest = x[0]
    for i in range(1, len(x)):
        highest = max(highest, x[i])
    total = x.dtype.type(0)
    for i in range(len(x)):
        x[i] = exp(x[i] - highest)
        total += x[i]
    share = x.dtype.type(1) / total
    for i in range(len(x)):
        x[i] *= share


@loop
def softmax_gradient(y, d):
    """d, the gradient of y = softmax(x), becomes that of x."""
    total = dot(y, d)
    for i in range(len(y)):
        d[i] = y[i] * (d[i] - total)


@loop
def sigmoid(x):
    """In place."""
    one = x.dtype.type(1)
    for i in range(len(x)):
        x[i] = one / (one + exp(-x[i]))


@loop
def tanh(x):
    """In place."""
    one, two = x.dtype.type(1), x.dtype.type(2)
    for i in range(len(x)):
        y = exp(-two * abs(x[i]))
        y = (one - y) / (one + y)
        x[i] = y if x[i] >= 0 else -y


@loop
def add_product(into, x, weight):
    """into [N, J] += x [N, I] @ weight [I, J].  Four rows of the weight at a time, which stay near while all environments use them."""
    inputs, outputs = weight.shape
    whole = inputs // 4 * 4
    for k in range(0, whole, 4):
        a, b, c, d = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for n in range(len(x)):
            row, x0, x1, x2, x3 = into[n], x[n, k], x[n, k + 1], x[n, k + 2], x[n, k + 3]
            for j in range(outputs):
                row[j] += x0 * a[j] + x1 * b[j] + x2 * c[j] + x3 * d[j]
    for k in range(whole, inputs):
        for n in range(len(x)):
            add_scaled(into[n], x[n, k], weight[k])


# -- heads ---------------------------------------------------------------------------------------------------------------


@loop
def wrap(w, radius, out):
    """addressing.wrap(): w [S] -> out [S + 2 radius]."""
    slots = len(w)
    out[radius : radius + slots] = w
    for i in range(radius):
        out[i] = w[slots - radius + i]
        out[radius + slots + i] = w[i]


@loop
def inverse_norm(x):
    return x.dtype.type(1) / math.sqrt(dot(x, x) + x.dtype.type(EPSILON))


@loop
def activate(p, q, tanhs, sigmoids, heads, taps):
    """p [P] -> q [P]; tanhs, sigmoids: where those groups end."""
    zero, clip, softplus = p.dtype.type(0), p.dtype.type(CLIP), sigmoids + 2 * heads
    for j in range(len(p)):
        q[j] = clip if p[j] > clip else -clip if p[j] < -clip else p[j]
    tanh(q[:tanhs])
    sigmoid(q[tanhs:sigmoids])
    for j in range(sigmoids, softplus):
        q[j] = max(q[j], zero) + math.log1p(math.exp(-abs(q[j])))
    for k in range(heads):
        softmax(q[softplus + k * taps : softplus + (k + 1) * taps])


@loop
def activate_gradient(p, q, d_q, tanhs, sigmoids, heads, taps):
    """d_q [P], the gradient of q, becomes that of p."""
    zero, one, clip, softplus = p.dtype.type(0), p.dtype.type(1), p.dtype.type(CLIP), sigmoids + 2 * heads
    for j in range(tanhs):
        d_q[j] *= one - q[j] * q[j]
    for j in range(tanhs, sigmoids):
        d_q[j] *= q[j] * (one - q[j])
    for j in range(sigmoids, softplus):
        d_q[j] *= -math.expm1(-q[j])
    for k in range(heads):
        at = softplus + k * taps
        softmax_gradient(q[at : at + taps], d_q[at : at + taps])
    for j in range(len(p)):
        if abs(p[j]) > clip:
            d_q[j] = zero


@loop
def similarities(key, memory, per_slot, similarity):
    """(6): key [K W], memory [W, S] -> per_slot [S], similarity [K, S]."""
    word, slots = memory.shape
    one, epsilon = memory.dtype.type(1), memory.dtype.type(EPSILON)
    per_slot[:] = epsilon
    similarity[:] = memory.dtype.type(0)
    for j in range(word):
        row = memory[j]
        for i in range(slots):
            per_slot[i] += row[i] * row[i]
        for k in range(len(similarity)):
            add_scaled(similarity[k], key[k * word + j], row)
    for i in range(slots):
        per_slot[i] = one / math.sqrt(per_slot[i])
    for k in range(len(similarity)):
        per_key = inverse_norm(key[k * word : (k + 1) * word])
        for i in range(slots):
            similarity[k, i] *= per_key * per_slot[i]


@loop
def similarities_gradient(key, memory, per_slot, similarity, d_product, d_memory, d_key, unit, shrink):
    """(6) backwards: d_product [K, S], the gradient of the similarities, is scaled in place; d_memory [W, S] is added to, d_key [K W] given.
    unit [K W], shrink [S]: scratch."""
    word, slots = memory.shape
    heads = len(similarity)
    shrink[:] = memory.dtype.type(0)
    for k in range(heads):
        per_key = inverse_norm(key[k * word : (k + 1) * word])
        for j in range(word):
            unit[k * word + j] = key[k * word + j] * per_key
        for i in range(slots):
            d_product[k, i] *= per_slot[i]
            shrink[i] -= d_product[k, i] * similarity[k, i] * per_slot[i]
    for j in range(word):
        row, d_row = memory[j], d_memory[j]
        for k in range(heads):
            d_key[k * word + j] = dot(d_product[k], row)
            add_scaled(d_row, unit[k * word + j], d_product[k])
        for i in range(slots):
            d_row[i] += shrink[i] * row[i]
    for k in range(heads):
        d_unit, unit_k = d_key[k * word : (k + 1) * word], unit[k * word : (k + 1) * word]
        along, per_key = dot(unit_k, d_unit), inverse_norm(key[k * word : (k + 1) * word])
        for j in range(word):
            d_unit[j] = per_key * (d_unit[j] - unit_k[j] * along)


@loop
def shift_and_sharpen(w, s, gamma, wrapped, w_shifted, logs):
    """(8) and (9) of one head: w [S] in place; w_shifted and its logarithm [S] are given, wrapped [S + taps - 1] is scratch."""
    slots, taps, power = len(w), len(s), w.dtype.type(1) + gamma
    wrap(w, taps // 2, wrapped)
    w_shifted[:] = w.dtype.type(TINY)
    for j in range(taps):
        add_scaled(w_shifted, s[j], wrapped[taps - 1 - j : taps - 1 - j + slots])
    for i in range(slots):
        logs[i] = log(w_shifted[i])
        w[i] = power * logs[i]
    softmax(w)


@loop
def shift_and_sharpen_gradient(w, w_gated, s, gamma, w_shifted, logs, d, d_s, wrapped):
    """(9) and (8) backwards, of one head: d [S], the gradient of w, becomes that of w_gated; d_s [taps] is given.  Returns the gradient of
    gamma.  wrapped [2, S + taps - 1]: scratch."""
    slots, taps, power = len(w), len(s), w.dtype.type(1) + gamma
    softmax_gradient(w, d)
    d_gamma = dot(d, logs)
    for i in range(slots):
        d[i] *= power / w_shifted[i]
    wrap(w_gated, taps // 2, wrapped[0])
    wrap(d, taps // 2, wrapped[1])
    for j in range(taps):
        d_s[j] = dot(d, wrapped[0, taps - 1 - j : taps - 1 - j + slots])
    d[:] = w.dtype.type(0)
    for j in range(taps):
        add_scaled(d, s[taps - 1 - j], wrapped[1, taps - 1 - j : taps - 1 - j + slots])
    return d_gamma


@loop
def write_and_read(memory, w, erase, add, new, read):
    """(3), (4), (2): memory [W, S], w [K, S], erase, add [H W] -> new [W, S], read [R W]."""
    word, slots = memory.shape
    reads, one = len(read) // word, memory.dtype.type(1)
    for j in range(word):
        row = new[j]
        row[:] = memory[j]
        for h in range(len(w) - reads):
            c, w_h = erase[h * word + j], w[reads + h]
            for i in range(slots):
                row[i] *= one - c * w_h[i]
        for h in range(len(w) - reads):
            add_scaled(row, add[h * word + j], w[reads + h])
        for r in range(reads):
            read[r * word + j] = dot(w[r], row)


@loop
def write_and_read_gradient(memory, new, w, q, add_at, erase_at, d_memory, d_read, d_w, d_q, before):
    """(2), (4), (3) backwards: d_memory [W, S], the gradient of new, becomes that of memory; to d_w [K, S] is added; d_q [P] is given
    erase's and add's, which begin there in q.  before [H, S]: scratch."""
    word, slots = memory.shape
    reads, writes, one = len(d_read) // word, len(before), memory.dtype.type(1)
    for j in range(word):
        d_row = d_memory[j]
        for r in range(reads):
            add_scaled(d_row, d_read[r * word + j], w[r])
            add_scaled(d_w[r], d_read[r * word + j], new[j])
        for h in range(writes):
            at = add_at + h * word + j
            d_q[at] = dot(w[reads + h], d_row)
            add_scaled(d_w[reads + h], q[at], d_row)
        before[0] = memory[j]
        for h in range(writes - 1):
            c, w_h = q[erase_at + h * word + j], w[reads + h]
            for i in range(slots):
                before[h + 1, i] = before[h, i] * (one - c * w_h[i])
        for h in range(writes - 1, -1, -1):
            at = erase_at + h * word + j
            c, w_h, d_h, total = q[at], w[reads + h], d_w[reads + h], memory.dtype.type(0)
            for i in range(slots):
                gone = d_row[i] * before[h, i]
                total += w_h[i] * gone
                d_h[i] -= c * gone
                d_row[i] *= one - c * w_h[i]
            d_q[at] = -total


@loop
def use_memory(p, memory, w_tm1, kinds, new, read, w, q, per_slot, similarity, w_content, w_shifted, logs, wrapped):
    """A step of one environment: p [P], memory [W, S], w_tm1 [K, S] -> new, read [R W], w, and what use_memory_gradient() wants.

    kinds: taps, and whether heads go by content and by location.  wrapped: scratch."""
    (taps, content, location), (heads, slots), word = kinds, w.shape, len(memory)
    reads = len(read) // word
    tanhs = (2 * heads - reads) * word
    gates = tanhs + heads
    sigmoids = gates + (heads - reads) * word
    activate(p, q, tanhs, sigmoids, heads, taps)
    if content:
        similarities(q[: heads * word], memory, per_slot, similarity)
    for k in range(heads):
        now = w[k]
        now[:] = w_tm1[k]
        if content:
            by_content, beta, g = w_content[k], q[sigmoids + k], q[tanhs + k]
            for i in range(slots):
                by_content[i] = beta * similarity[k, i]
            softmax(by_content)  # (5)
            for i in range(slots):
                now[i] = now[i] + g * (by_content[i] - now[i]) if location else by_content[i]  # (7)
        if location:
            at = sigmoids + 2 * heads + k * taps
            shift_and_sharpen(now, q[at : at + taps], q[sigmoids + heads + k], wrapped, w_shifted[k], logs[k])
    write_and_read(memory, w, q[gates:sigmoids], q[heads * word : tanhs], new, read)


@loop
def use_memory_gradient(
    p, memory, w_tm1, kinds, new, w, q, per_slot, similarity, w_content, w_shifted, logs, d_memory, d_read, d_w, d_p, scratch
):
    """use_memory() backwards: d_memory [W, S], the gradient of new, becomes that of memory, d_w [K, S], that of w, becomes w_tm1's; d_p
    [P] is given.  scratch: arrays [2, S + taps - 1], [H, S], [K, S], [K W], [S]."""
    (taps, content, location), (heads, slots), word = kinds, w.shape, len(memory)
    wrapped, before, d_content, unit, w_gated = scratch
    reads = heads - len(before)
    tanhs = (2 * heads - reads) * word
    gates = tanhs + heads
    sigmoids = gates + (heads - reads) * word
    d_p[:] = p.dtype.type(0)
    write_and_read_gradient(memory, new, w, q, heads * word, gates, d_memory, d_read, d_w, d_p, before)
    for k in range(heads):
        d, was, by_content, g = d_w[k], w_tm1[k], w_content[k], q[tanhs + k] if location else p.dtype.type(1)
        if location:
            for i in range(slots):
                w_gated[i] = was[i] + g * (by_content[i] - was[i]) if content else was[i]
            at, strength = sigmoids + 2 * heads + k * taps, sigmoids + heads + k
            d_p[strength] = shift_and_sharpen_gradient(
                w[k], w_gated, q[at : at + taps], q[strength], w_shifted[k], logs[k], d, d_p[at : at + taps], wrapped
            )
        if content:
            d_g, beta = p.dtype.type(0), q[sigmoids + k]
            for i in range(slots):
                d_g += d[i] * (by_content[i] - was[i])  # (7)
                d_content[k, i] = g * d[i]
                d[i] -= g * d[i]
            d_p[tanhs + k] = d_g if location else p.dtype.type(0)
            softmax_gradient(by_content, d_content[k])  # (5)
            d_p[sigmoids + k] = dot(d_content[k], similarity[k])
            for i in range(slots):
                d_content[k, i] *= beta
    if content:
        similarities_gradient(q[: heads * word], memory, per_slot, similarity, d_content, d_memory, d_p[: heads * word], unit, w_gated)
    activate_gradient(p, q, d_p, tanhs, sigmoids, heads, taps)


# -- the controller, and all steps ---------------------------------------------------------------------------------------


@loop
def lstm(gates, c_tm1, c, h):
    """gates [4 width], of the input, forget, cell and output gates before their activation, are activated in place; c, h [width] are
    given."""
    width = len(c)
    sigmoid(gates[: 2 * width])
    tanh(gates[2 * width : 3 * width])
    sigmoid(gates[3 * width :])
    for i in range(width):
        c[i] = gates[width + i] * c_tm1[i] + gates[i] * gates[2 * width + i]
        h[i] = c[i]
    tanh(h)
    for i in range(width):
        h[i] *= gates[3 * width + i]


@loop
def lstm_gradient(gates, c_tm1, c, d_h, d_c, d_gates, squashed):
    """d_c [width], the gradient of c, becomes that of c_tm1; d_gates [4 width] is given.  squashed [width]: scratch."""
    width, one = len(c), c.dtype.type(1)
    squashed[:] = c
    tanh(squashed)
    for i in range(width):
        in_, forget, cell, out, y = gates[i], gates[width + i], gates[2 * width + i], gates[3 * width + i], squashed[i]
        d = d_c[i] + d_h[i] * out * (one - y * y)
        d_gates[i] = d * cell * in_ * (one - in_)
        d_gates[width + i] = d * c_tm1[i] * forget * (one - forget)
        d_gates[2 * width + i] = d * in_ * (one - cell * cell)
        d_gates[3 * width + i] = d_h[i] * y * out * (one - out)
        d_c[i] = d * forget


@loop
def control(t, gates, inputs, weights, h, c, reads):
    """Step t of all layers of all environments; the arguments are forward()'s."""
    recurrent = c.shape[0] > 0
    for layer in range(len(gates)):
        x, g = inputs[layer][t], gates[layer][t]
        below = reads[t] if layer == 0 else h[layer - 1, t + 1]
        x[:, : below.shape[1]] = below
        if recurrent:
            x[:, below.shape[1] :] = h[layer, t]
        add_product(g, x, weights[layer])
        for n in range(len(g)):
            if recurrent:
                lstm(g[n], c[layer, t, n], c[layer, t + 1, n], h[layer, t + 1, n])
            else:
                tanh(g[n])
                h[layer, t + 1, n] = g[n]


@loop
def control_gradient(t, gates, weights, h, c, d_h, d_c, d_read, d_gates, squashed):
    """control() backwards; the arguments are backward()'s.  d_read becomes the gradient of what was read before."""
    zero, one, recurrent, width = h.dtype.type(0), h.dtype.type(1), c.shape[0] > 0, h.shape[3]
    for layer in range(len(gates) - 1, -1, -1):
        g, d_g = gates[layer][t], d_gates[layer][t]
        for n in range(len(g)):
            if recurrent:
                lstm_gradient(g[n], c[layer, t, n], c[layer, t + 1, n], d_h[layer, n], d_c[layer, n], d_g[n], squashed)
            else:
                for i in range(width):
                    d_g[n, i] = d_h[layer, n, i] * (one - g[n, i] * g[n, i])
        d_x = np.zeros((len(g), weights[layer].shape[1]), h.dtype)
        add_product(d_x, d_g, weights[layer])
        below = d_read.shape[1] if layer == 0 else width
        if layer == 0:
            d_read[:] = d_x[:, :below]
        else:
            d_h[layer - 1] += d_x[:, :below]
        if recurrent:
            d_h[layer] = d_x[:, below:]
        else:
            d_h[layer] = zero


@loop
def forward(gates, inputs, weights, h, c, heads_weight, p, memory, reads, w, kinds, q, kept):
    """All steps of all environments.

    | argument        | shape                |                                                                                    |
    |-----------------|----------------------|------------------------------------------------------------------------------------|
    | gates           | L times [T, N, G]    | what a layer's input and biases come to; are activated; G: 4 width or width   |
    | inputs          | L times [T, N, I]    | given: the layer's remaining inputs: what was read, or the layer below; then its own h |
    | weights         | L times [I, G]       | of these                                                                           |
    | h, c            | [L, T + 1, N, width] | the first row is where it begins, as of the following; c is empty if feedforward   |
    | heads_weight, p | [width, P], [T, N, P] | p begins as the biases                                                            |
    | memory          | [T + 1, N, W, S]     |                                                                                    |
    | reads, w        | [T + 1, N, R W], [T + 1, N, K, S] |                                                                       |
    | q, kept         | [T, N, P]; [T, N, S] and 4 times [T, N, K, S] | what backward() wants                                     |
    """
    steps, num_envs, slots = len(p), p.shape[1], w.shape[3]
    per_slot, similarity, w_content, w_shifted, logs = kept
    wrapped = np.empty(slots + kinds[0] - 1, p.dtype)
    for t in range(steps):
        control(t, gates, inputs, weights, h, c, reads)
        add_product(p[t], h[len(gates) - 1, t + 1], heads_weight)
        for n in range(num_envs):
            use_memory(
                p[t, n], memory[t, n], w[t, n], kinds, memory[t + 1, n], reads[t + 1, n], w[t + 1, n], q[t, n],
                per_slot[t, n], similarity[t, n], w_content[t, n], w_shifted[t, n], logs[t, n], wrapped,
            )  # fmt: skip


@loop
def backward(gates, weights, h, c, heads_weight, p, memory, reads, w, kinds, q, kept, d_y, d_h, d_c, d_memory, d_read, d_w, d_gates, d_p):
    """forward() backwards.  weights L times [G, I], heads_weight [P, width]; d_y [T, N, width + R W]; d_h, d_c [L, N, width], d_memory,
    d_read and d_w [N, ...], the gradients of the last row, become those of the first; d_gates, L times [T, N, G], and d_p [T, N, P] are
    given."""
    steps, num_envs, heads, slots = len(p), p.shape[1], w.shape[2], w.shape[3]
    layers, width, word = len(gates), h.shape[3], memory.shape[2]
    per_slot, similarity, w_content, w_shifted, logs = kept
    writes, squashed = heads - d_read.shape[1] // word, np.empty(width, p.dtype)
    scratch = (
        np.empty((2, slots + kinds[0] - 1), p.dtype), np.empty((writes, slots), p.dtype), np.empty((heads, slots), p.dtype),
        np.empty(heads * word, p.dtype), np.empty(slots, p.dtype),
    )  # fmt: skip
    for t in range(steps - 1, -1, -1):
        d_h[layers - 1] += d_y[t, :, :width]
        d_read += d_y[t, :, width:]
        for n in range(num_envs):
            use_memory_gradient(
                p[t, n], memory[t, n], w[t, n], kinds, memory[t + 1, n], w[t + 1, n], q[t, n],
                per_slot[t, n], similarity[t, n], w_content[t, n], w_shifted[t, n], logs[t, n],
                d_memory[n], d_read[n], d_w[n], d_p[t, n], scratch,
            )  # fmt: skip
        add_product(d_h[layers - 1], d_p[t], heads_weight)
        control_gradient(t, gates, weights, h, c, d_h, d_c, d_read, d_gates, squashed)


# -- the DNC's heads (dnc.py) ----------------------------------------------------------------------------------------------
# One interface xi [P] of an environment, in dnc.py's order: R read keys, R strengths, the write key, its strength, erase, add, R free gates,
# the allocation gate, the write gate, R times 3 modes.  q [P] is xi activated, strengths without their 1.


class Places(NamedTuple):
    """Where the parts of an interface begin, behind the read keys."""

    strengths: int
    write_key: int
    write_strength: int
    erase: int
    add: int
    free: int
    allocation_gate: int
    write_gate: int
    modes: int


@loop
def places(reads, word):
    strengths = reads * word
    write_key = strengths + reads
    write_strength = write_key + word
    erase = write_strength + 1
    free = erase + 2 * word
    gates = free + reads
    return Places(strengths, write_key, write_strength, erase, erase + word, free, gates, gates + 1, gates + 2)


@loop
def read_content(q, at):
    """The read heads' keys [R W] and strengths [R]."""
    return q[: at.strengths], q[at.strengths : at.write_key]


@loop
def write_content(q, at):
    """The write head's key [W] and strength [1]."""
    return q[at.write_key : at.write_strength], q[at.write_strength : at.erase]


@loop
def dnc_activate(xi, q, reads, word, modes):
    zero, clip, at = xi.dtype.type(0), xi.dtype.type(CLIP), places(reads, word)
    for j in range(len(xi)):
        q[j] = clip if xi[j] > clip else -clip if xi[j] < -clip else xi[j]
    for j in range(at.strengths, at.write_key):
        q[j] = max(q[j], zero) + math.log1p(math.exp(-abs(q[j])))
    q[at.write_strength] = max(q[at.write_strength], zero) + math.log1p(math.exp(-abs(q[at.write_strength])))
    sigmoid(q[at.erase : at.add])
    sigmoid(q[at.free : at.modes])
    for r in range(reads if modes else 0):
        softmax(q[at.modes + 3 * r : at.modes + 3 * r + 3])


@loop
def dnc_activate_gradient(xi, q, d_q, reads, word, modes):
    zero, one, clip, at = xi.dtype.type(0), xi.dtype.type(1), xi.dtype.type(CLIP), places(reads, word)
    for j in range(at.strengths, at.write_key):
        d_q[j] *= -math.expm1(-q[j])
    d_q[at.write_strength] *= -math.expm1(-q[at.write_strength])
    for j in range(at.erase, at.add):
        d_q[j] *= q[j] * (one - q[j])
    for j in range(at.free, at.modes):
        d_q[j] *= q[j] * (one - q[j])
    for r in range(reads if modes else 0):
        softmax_gradient(q[at.modes + 3 * r : at.modes + 3 * r + 3], d_q[at.modes + 3 * r : at.modes + 3 * r + 3])
    for j in range(len(xi)):
        if abs(xi[j]) > clip:
            d_q[j] = zero


@loop
def by_content(key, strengths, memory, per_slot, similarity, w):
    """C(M, k, beta) of K keys: key [K W], strengths [K] less 1, memory [W, S] -> per_slot [S], similarity and w [K, S]."""
    similarities(key, memory, per_slot, similarity)
    for k in range(len(w)):
        beta = memory.dtype.type(1) + strengths[k]
        for i in range(w.shape[1]):
            w[k, i] = beta * similarity[k, i]
        softmax(w[k])


@loop
def by_content_gradient(key, strengths, memory, per_slot, similarity, w, d_w, d_memory, d_key, d_strengths, unit, shrink):
    """d_w [K, S] is used up; d_memory [W, S] is added to; d_key and d_strengths are given.  unit [K W], shrink [S]: scratch."""
    for k in range(len(w)):
        softmax_gradient(w[k], d_w[k])
        d_strengths[k] = dot(d_w[k], similarity[k])
        beta = memory.dtype.type(1) + strengths[k]
        for i in range(w.shape[1]):
            d_w[k, i] *= beta
    similarities_gradient(key, memory, per_slot, similarity, d_w, d_memory, d_key, unit, shrink)


@loop
def allocate(usage_tm1, w_write_tm1, w_read_tm1, free, least, usage, free_list, taken, a):
    """usage [S], the free list [S], taken [S] (the product before each of its places) and a [S], of what was at t - 1."""
    one, slots = a.dtype.type(1), len(a)
    for i in range(slots):
        usage[i] = usage_tm1[i] + w_write_tm1[i] - usage_tm1[i] * w_write_tm1[i]
    for r in range(len(free)):
        for i in range(slots):
            usage[i] *= one - free[r] * w_read_tm1[r, i]
    free_list[:] = np.argsort(least + (one - least) * usage, kind="mergesort")
    product = one
    for j in range(slots):
        i = free_list[j]
        v = least + (one - least) * usage[i]
        taken[j] = product
        a[i] = (one - v) * product
        product *= v


@loop
def allocate_gradient(usages, w_write_tm1, w_read_tm1, free, least, free_list, taken, d_a, d_usage, d_w_write, d_w_read, d_free):
    """usages [S] at t - 1 and t.  d_usage [S], the gradient of the latter, becomes that of the former; to d_w_write [S] and d_w_read [R, S]
    is added; d_free [R] is given."""
    usage_tm1, usage = usages
    zero, one, slots, reads = d_a.dtype.type(0), d_a.dtype.type(1), len(d_a), len(free)
    behind = zero  # the sum of d_a a of the places behind
    for j in range(slots - 1, -1, -1):
        i = free_list[j]
        v = least + (one - least) * usage[i]
        d_usage[i] += (behind / v - d_a[i] * taken[j]) * (one - least)
        behind += d_a[i] * (one - v) * taken[j]
    d_free[:] = zero
    for i in range(slots):
        before = usage_tm1[i] + w_write_tm1[i] - usage_tm1[i] * w_write_tm1[i]
        retention = one
        for r in range(reads):
            retention *= one - free[r] * w_read_tm1[r, i]
        for r in range(reads):
            others = one
            for s in range(reads):
                if s != r:
                    others *= one - free[s] * w_read_tm1[s, i]
            d = d_usage[i] * before * others
            d_free[r] -= d * w_read_tm1[r, i]
            d_w_read[r, i] -= d * free[r]
        d = d_usage[i] * retention
        d_w_write[i] += d * (one - usage_tm1[i])
        d_usage[i] = d * (one - w_write_tm1[i])


@loop
def link_up(link, precedence, w, w_read_tm1, new_link, new_precedence, back, ahead):
    """L_t [S, S] and p_t [S] of those at t - 1 and w [S], and where they lead from w_read_tm1 [R, S]: back, ahead [R, S]."""
    zero, one, slots = w.dtype.type(0), w.dtype.type(1), len(w)
    back[:] = zero
    total = zero
    for i in range(slots):
        row, before, w_i = new_link[i], link[i], w[i]
        total += w_i
        for j in range(slots):
            row[j] = (one - w_i - w[j]) * before[j] + w_i * precedence[j]
        row[i] = zero
        for r in range(len(back)):
            add_scaled(back[r], w_read_tm1[r, i], row)
            ahead[r, i] = dot(w_read_tm1[r], row)
    for i in range(slots):
        new_precedence[i] = (one - total) * precedence[i] + w[i]


@loop
def link_up_gradient(link, precedence, w, w_read_tm1, new_link, d_back, d_ahead, d_link, d_precedence, d_w, d_w_read, d_p):
    """d_link [S, S] and d_precedence [S], the gradients of those at t, become those at t - 1; to d_w [S] and d_w_read [R, S] is added.
    d_p [S]: scratch."""
    zero, one, slots, total, along = w.dtype.type(0), w.dtype.type(1), len(w), w.dtype.type(0), dot(d_precedence, precedence)
    for i in range(slots):
        total += w[i]
    for i in range(slots):
        d_w[i] += d_precedence[i] - along
        d_p[i] = (one - total) * d_precedence[i]
    for i in range(slots):
        d_row, row, before, w_i = d_link[i], new_link[i], link[i], w[i]
        for r in range(len(d_back)):
            d_w_read[r, i] += dot(row, d_back[r])
            add_scaled(d_row, w_read_tm1[r, i], d_back[r])
            add_scaled(d_w_read[r], d_ahead[r, i], row)
            add_scaled(d_row, d_ahead[r, i], w_read_tm1[r])
        d_row[i] = zero
        own = zero
        for j in range(slots):
            g = d_row[j]
            own += g * (precedence[j] - before[j])
            d_w[j] -= g * before[j]
            d_p[j] += g * w_i
            d_row[j] = g * (one - w_i - w[j])
        d_w[i] += own
    d_precedence[:] = d_p


@loop
def dnc_step(xi, links, least, was, now, kept):
    """A step of one environment.  was, now: memory [W, S], link [S, S], precedence [S], usage [S], w_read [R, S], w_write [S], read [R W]
    before it and after it.  kept: q [P], the free list, taken, a [S], per slot and similarity and weighting by content of the write head
    [S], [1, S], [1, S] and of the read heads [S], [R, S], [R, S], back and ahead [R, S]."""
    memory, link, precedence, usage, w_read, w_write, _ = was
    new, new_link, new_precedence, new_usage, new_w_read, w, read = now
    q, free_list, taken, a, slot_w, like_w, c_write, slot_r, like_r, c_read, back, ahead = kept
    (word, slots), reads, one = memory.shape, len(w_read), xi.dtype.type(1)
    at = places(reads, word)
    dnc_activate(xi, q, reads, word, links)
    allocate(usage, w_write, w_read, q[at.free : at.allocation_gate], least, new_usage, free_list, taken, a)
    key, strength = write_content(q, at)
    by_content(key, strength, memory, slot_w, like_w, c_write)
    g_a, g_w = q[at.allocation_gate], q[at.write_gate]
    for i in range(slots):
        w[i] = g_w * (g_a * a[i] + (one - g_a) * c_write[0, i])
    for j in range(word):
        row, before, e, v = new[j], memory[j], q[at.erase + j], q[at.add + j]
        for i in range(slots):
            row[i] = before[i] * (one - w[i] * e) + w[i] * v
    keys, strengths = read_content(q, at)
    by_content(keys, strengths, new, slot_r, like_r, c_read)
    if links:
        link_up(link, precedence, w, w_read, new_link, new_precedence, back, ahead)
    for r in range(reads):
        mode = at.modes + 3 * r
        for i in range(slots):
            by = c_read[r, i]
            new_w_read[r, i] = q[mode] * back[r, i] + q[mode + 1] * by + q[mode + 2] * ahead[r, i] if links else by
        for j in range(word):
            read[r * word + j] = dot(new_w_read[r], new[j])


@loop
def dnc_step_gradient(xi, links, least, was, now, kept, d, d_xi, scratch):
    """dnc_step() backwards.  d: the gradients of now, which become those of was (the last, of read, is left as it is); d_xi [P] is given."""
    memory, link, precedence, usage, w_read_tm1, w_write_tm1, _ = was
    new, new_link, _, new_usage, w_read, w, _ = now
    q, free_list, taken, a, slot_w, like_w, c_write, slot_r, like_r, c_read, back, ahead = kept
    d_memory, d_link, d_precedence, d_usage, d_w_read, d_w_write, d_read = d
    d_before, d_content, d_back, d_ahead, d_w, d_a, d_c, unit, some = scratch
    (word, slots), reads, zero, one = memory.shape, len(w_read), xi.dtype.type(0), xi.dtype.type(1)
    at = places(reads, word)
    d_xi[:] = zero
    d_before[:] = zero
    d_w[:] = d_w_write
    d_w_write[:] = zero
    for j in range(word):
        for r in range(reads):
            add_scaled(d_memory[j], d_read[r * word + j], w_read[r])
            add_scaled(d_w_read[r], d_read[r * word + j], new[j])
    for r in range(reads):
        mode, d_r = at.modes + 3 * r, d_w_read[r]
        if links:
            d_xi[mode], d_xi[mode + 1], d_xi[mode + 2] = dot(d_r, back[r]), dot(d_r, c_read[r]), dot(d_r, ahead[r])
        for i in range(slots):
            d_content[r, i] = q[mode + 1] * d_r[i] if links else d_r[i]
            if links:
                d_back[r, i], d_ahead[r, i] = q[mode] * d_r[i], q[mode + 2] * d_r[i]
    if links:
        link_up_gradient(link, precedence, w, w_read_tm1, new_link, d_back, d_ahead, d_link, d_precedence, d_w, d_before, some)
    (keys, strengths), (d_keys, d_strengths) = read_content(q, at), read_content(d_xi, at)
    by_content_gradient(keys, strengths, new, slot_r, like_r, c_read, d_content, d_memory, d_keys, d_strengths, unit, some)
    for j in range(word):
        row, d_row, e, v = memory[j], d_memory[j], q[at.erase + j], q[at.add + j]
        d_e = zero
        d_xi[at.add + j] = dot(w, d_row)
        for i in range(slots):
            gone = d_row[i] * row[i]
            d_e -= w[i] * gone
            d_w[i] += v * d_row[i] - e * gone
            d_row[i] *= one - w[i] * e
        d_xi[at.erase + j] = d_e
    g_a, g_w, d_ga, d_gw = q[at.allocation_gate], q[at.write_gate], zero, zero
    for i in range(slots):
        apart = a[i] - c_write[0, i]
        d_gw += d_w[i] * (c_write[0, i] + g_a * apart)
        d_ga += d_w[i] * apart
        d_a[i], d_c[0, i] = g_w * g_a * d_w[i], g_w * (one - g_a) * d_w[i]
    d_xi[at.allocation_gate], d_xi[at.write_gate] = g_w * d_ga, d_gw
    (key, strength), (d_key, d_strength) = write_content(q, at), write_content(d_xi, at)
    by_content_gradient(key, strength, memory, slot_w, like_w, c_write, d_c, d_memory, d_key, d_strength, unit, some)
    free, d_free, usages = q[at.free : at.allocation_gate], d_xi[at.free : at.allocation_gate], (usage, new_usage)
    allocate_gradient(usages, w_write_tm1, w_read_tm1, free, least, free_list, taken, d_a, d_usage, d_w_write, d_before, d_free)
    d_w_read[:] = d_before
    dnc_activate_gradient(xi, q, d_xi, reads, word, links)


@loop
def at_row(t, n, rows):
    """Of a state's seven arrays [T + 1, N, ...], those of one environment at one row."""
    memory, link, precedence, usage, w_read, w_write, read = rows
    return memory[t, n], link[t, n], precedence[t, n], usage[t, n], w_read[t, n], w_write[t, n], read[t, n]


@loop
def kept_at(t, n, kept):
    """Of the twelve arrays [T, N, ...] that are kept, those of one environment at one step."""
    q, free_list, taken, a, slot_w, like_w, c_write, slot_r, like_r, c_read, back, ahead = kept
    allocating, writing = (q[t, n], free_list[t, n], taken[t, n], a[t, n]), (slot_w[t, n], like_w[t, n], c_write[t, n])
    reading = slot_r[t, n], like_r[t, n], c_read[t, n], back[t, n], ahead[t, n]
    return allocating + writing + reading


@loop
def dnc_forward(gates, inputs, weights, h, c, heads_weight, xi, rows, links, least, kept):
    """forward() of a DNC: xi [T, N, P] begins as the biases; rows [T + 1, N, ...], kept [T, N, ...]: was and kept of dnc_step()."""
    for t in range(len(xi)):
        control(t, gates, inputs, weights, h, c, rows[6])
        add_product(xi[t], h[len(gates) - 1, t + 1], heads_weight)
        for n in range(xi.shape[1]):
            dnc_step(xi[t, n], links, least, at_row(t, n, rows), at_row(t + 1, n, rows), kept_at(t, n, kept))


@loop
def dnc_backward(gates, weights, h, c, heads_weight, xi, rows, links, least, kept, d_y, d_h, d_c, d_rows, d_gates, d_xi):
    """backward() of a DNC: d_rows, arrays [1, N, ...], are the gradients of the last of rows and become those of the first."""
    (steps, num_envs), dtype, width, squashed = xi.shape[:2], xi.dtype, h.shape[3], np.empty(h.shape[3], xi.dtype)
    (reads, slots), word, d_read = rows[4].shape[2:], rows[0].shape[2], d_rows[6][0]
    heads = (reads, slots)
    scratch = (
        np.empty(heads, dtype), np.empty(heads, dtype), np.empty(heads, dtype), np.empty(heads, dtype), np.empty(slots, dtype),
        np.empty(slots, dtype), np.empty((1, slots), dtype), np.empty(reads * word, dtype), np.empty(slots, dtype),
    )  # fmt: skip
    for t in range(steps - 1, -1, -1):
        d_h[len(gates) - 1] += d_y[t, :, :width]
        d_read += d_y[t, :, width:]
        for n in range(num_envs):
            was, now = at_row(t, n, rows), at_row(t + 1, n, rows)
            dnc_step_gradient(xi[t, n], links, least, was, now, kept_at(t, n, kept), at_row(0, n, d_rows), d_xi[t, n], scratch)
        add_product(d_h[len(gates) - 1], d_xi[t], heads_weight)
        control_gradient(t, gates, weights, h, c, d_h, d_c, d_read, d_gates, squashed)
