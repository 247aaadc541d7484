"""Which device: the one place that says whether a named one can be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from arcturus.errors import ConfigError, EnvironmentProblem

MOST_LEARNER_THREADS = 4  # minibatches of a few hundred frames have no work for more


def choose_device(name: str, where: str = "--device") -> str:
    """auto as cuda or cpu, any other name checked."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", where=where, fix="auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported", where=where, fix="auto, cpu, cuda or cuda:0")
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
    """As many as torch takes by itself (one a core, or OMP_NUM_THREADS), at most MOST_LEARNER_THREADS; 0, as many as otherwise, where bits
    mustn't depend on the machine."""
    import torch

    return 0 if deterministic else min(torch.get_num_threads(), MOST_LEARNER_THREADS)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch meanwhile; 0: as many as there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def torch_settings(threads: int, deterministic: bool, tf32: bool) -> Iterator[None]:
    """Threads and determinism for as long as a run lasts."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32, benchmark = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    cudnn_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark
        torch.backends.cudnn.allow_tf32 = cudnn_tf32
