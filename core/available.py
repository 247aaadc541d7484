"""How much memory is left for what is about to be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PLENTY = 1 << 62  # where nothing says how much there is, so that nothing is refused
GROUPS = (  # of a control group: its limit, what is used of it, and what of that can be given back (the file cache)
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(device: torch.device) -> int:
    """Free memory of a device; or of this machine, within the limits of the container (cgroup) and of the process (ulimit -v)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([PLENTY, *_machine(), *of_container(), *_process()]))


def _machine(file: Path = Path("/proc/meminfo")) -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield from (int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith("MemAvailable"))


def of_container(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group above this process leaves it: docker, Kubernetes, SLURM and systemd set them.

    root: where the groups are mounted; a container sees its own there, a process outside one lies in the folders that `own`
    names, each of which may have a limit.
    """
    named = []
    with suppress(OSError):
        named = [line.rsplit(":", 1)[-1].strip("/") for line in own.read_text().splitlines()]
    for limit, used, cache in GROUPS:
        base = limit.rpartition("/")[0]
        for inside in {"", *named}:
            place = root / base / inside
            while True:
                yield from _left(place, limit.rpartition("/")[2], used.rpartition("/")[2], cache)
                if place == root / base or root not in place.parents:
                    break
                place = place.parent


def _left(place: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    with suppress(OSError, ValueError):
        most = int((place / limit).read_text())  # "max" is no number: no limit
        spare = 0
        with suppress(OSError, ValueError):
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            spare = int(stat.get(cache, 0))
        yield most - int((place / used).read_text()) + spare


def _process() -> Iterator[int]:
    with suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            yield most - taken
