"""Devices: whether a named one can be used, how many threads torch uses, and how much memory is left for the next
allocation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from arcturus.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    import torch

PLENTY = 1 << 62  # if the free memory isn't known, so that nothing is refused
GROUPS = (  # where control groups are, and of one its limit, what is used of it, and what of that can be reclaimed (the file cache)
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
MOST_LEARNER_THREADS = 4  # minibatches of a few hundred frames have no work for more


def choose_device(name: str, where: str = "--device") -> str:
    """auto as cuda or cpu, any other name checked."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", where=where, fix="use auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported", where=where, fix="use auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "there is no CUDA device here, or this torch was built without CUDA",
            where=where,
            fix="use cpu, or install a CUDA build of torch",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA devices", where=where)
    return name


def learner_threads(deterministic: bool) -> int:
    """As many as torch uses by default (one per core, or OMP_NUM_THREADS), at most MOST_LEARNER_THREADS; 0 (no change) where bits mustn't
    depend on the machine."""
    import torch

    return 0 if deterministic else min(torch.get_num_threads(), MOST_LEARNER_THREADS)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the context torch uses `count` threads; 0: no change."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def torch_settings(threads: int, deterministic: bool, tf32: bool) -> Iterator[None]:
    """Threads, determinism and TF32 for as long as a run lasts."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    flags_before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = flags_before


def available_bytes(device: torch.device) -> int:
    """Free memory of a device; or of this machine, within the limits of the container (cgroup) and of the process (ulimit -v)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([PLENTY, *_machine(), *of_container(), *_process()]))


def _machine(file: Path = Path("/proc/meminfo")) -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield from (int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith("MemAvailable"))


def of_container(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group above this process leaves it: docker, Kubernetes, SLURM and systemd set them.

    root: where the groups are mounted; a container sees its own there, a process outside a container belongs to the folders
    that `own` names, each of which may have a limit.
    """
    named = []
    with suppress(OSError):
        named = [line.rsplit(":", 1)[-1].strip("/") for line in own.read_text().splitlines()]
    for base, limit, used, cache in GROUPS:
        top = root / base
        for inside in {"", *named}:
            for place in (top / inside, *(top / inside).parents):
                if place.is_relative_to(top):
                    yield from _left(place, limit, used, cache)


def _left(place: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    with suppress(OSError, ValueError):
        most = int((place / limit).read_text())  # "max" is not a number: no limit
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
