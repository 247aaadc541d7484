"""train-agent doctor: versions, device, games, encoder, cores, disk, and a two-second step rate; text to paste in an issue."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import time


def doctor(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="train-agent doctor", description=__doc__)
    parser.add_argument("--no-speed", action="store_true", help="do not measure the step rate")
    args = parser.parse_args(argv)
    import torch

    from arcturus.runs.folder import versions

    ok = True

    def say(name: str, text: str) -> None:
        print(f"{name:10s} {text}")

    say("versions", ", ".join(f"{k} {v}" for k, v in versions().items()))
    say(
        "machine",
        f"{platform.platform()}, {os.cpu_count()} cores ({len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else '?'} usable)",
    )
    usage = shutil.disk_usage(".")
    say("disk", f"{usage.free / 1e9:.1f} GB free here")
    cuda = torch.cuda.is_available()
    say("device", f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})" if cuda else "CPU (torch sees no CUDA device)")
    from arcturus.envs.atari import games

    try:
        found = games()
        say("games", f"{len(found)} ALE/*-v5 games")
        ok = ok and bool(found)
    except ImportError as e:
        ok = False
        say("games", f"ale-py can't be imported: {e}")
    try:
        import av

        av.codec.Codec("libx264", "w")
        say("encoder", f"H.264 through PyAV {av.__version__}")
    except Exception as e:  # any failure is the finding
        ok = False
        say("encoder", f"no H.264 ({type(e).__name__}: {e}); films can be .gif")
    if ok and not args.no_speed:
        say("speed", speed())
    print("all is well" if ok else "something is missing: see above")
    return 0 if ok else 3


def speed(seconds: float = 2.0) -> str:
    import torch

    from arcturus.envs import make

    with make("ALE/Pong-v5", 8) as envs:
        envs.reset(seed=0)
        action, steps, began = torch.zeros(8, dtype=torch.int64), 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            envs.step(action)
            steps += 8
        rate = steps / (time.perf_counter() - began)
    return f"{rate:,.0f} agent steps/s ({4 * rate:,.0f} frames/s) of Pong with 8 environments, frames stacked"
