"""What a benchmark ran on: hardware, versions and load, for its head and its JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from arcturus.runs.folder import source_commit, versions

PEERS = ("envpool", "torchrl", "cpprb", "popgym")  # beside those that arcturus itself needs
LEFT_OUT = ("tensorboard", "safetensors", "av")  # of versions(): nothing here is timed through them


def processor() -> str:
    """The CPU's own name, where the machine tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def installed() -> dict[str, str]:
    """Versions of what is compared."""
    out = {k: v for k, v in versions().items() if k not in LEFT_OUT and v != "missing"}
    for name in PEERS:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def device_name(device: Any) -> str:
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return "no GPU used"


def about(device: Any) -> dict[str, Any]:
    hardware = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device_name(device),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {"hardware": hardware, "versions": installed(), "commit": source_commit()}


def load() -> float:
    """Processes that ran or wanted to, on average over the last minute, our own included."""
    return os.getloadavg()[0]


def said(about: dict[str, Any]) -> str:
    """One line of about()."""
    h = about["hardware"]
    parts = [h["processor"], f"{h['cores']} cores", h["device"], h["system"]]
    return ", ".join(parts) + "; " + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
