"""Which device and how many threads: asked once, at start."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from service.errors import BadInput


def choose_device(wanted: str) -> torch.device:
    """Choose cpu or cuda; auto is cuda where there is one. Raises BadInput for cuda where there is none."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device {wanted!r} is unknown; expected auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise BadInput("device cuda was asked for, but PyTorch finds no GPU; use auto or cpu")
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def use_threads(wanted: int) -> int:
    """Let PyTorch use `wanted` threads, 0 for as many as there is processor time for; -> the number.

    Raises BadInput for fewer than none.
    """
    if wanted < 0:
        raise BadInput(f"{wanted} threads were asked for; expected 1 or more, or 0 for as many as there are cores")
    threads = wanted or available_cores()
    torch.set_num_threads(threads)
    return threads


def has_fast_bfloat16(device: torch.device) -> bool:
    """Say whether products in bfloat16 are faster there than in float32: on a GPU, and on a CPU with tiles for them.

    The bfloat16 instructions that AVX-512 has are no gain: PyTorch's products in float32 take half their time.
    """
    return device.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the cores this process may use: the smaller of its CPU affinity and its cgroup's quota (v2 or v1).

    Where there is neither, as on macOS, these are all cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(cgroup)
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _cgroup_quota(cgroup: Path) -> float | None:
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
