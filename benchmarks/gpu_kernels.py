"""What a GPU does in some work, kernel by kernel, and what the host asks of it; `benchmarks.gpu` writes it down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

TOP = 14  # kernels that are told one by one
ASKS = ("Launch", "Memcpy", "Memset", "Synchronize", "Malloc", "Free")  # in the names of CUDA's calls


def kernel_by_kernel(work: Callable[[], object], wait: Callable[[], None], times: int = 20) -> dict[str, Any]:
    """Do some work so many times under PyTorch's profiler; all figures are of one time.

    The profiler sees what every thread asks for. It slows the host down, so the times of kernels are right, and those
    of the whole are not told.
    """
    for _ in range(3):
        work()
    wait()
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        for _ in range(times):
            work()
        wait()
    events = seen.key_averages()
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    calls = [event for event in events if event.key.startswith("cu") and any(ask in event.key for ask in ASKS)]
    return {
        "kernels": sum(event.count for event in kernels) / times,
        "device_us": sum(event.self_device_time_total for event in kernels) / times,
        "calls": {event.key: event.count / times for event in calls},
        "top": [
            {"kernel": event.key[:120], "count": event.count / times, "us": event.self_device_time_total / times}
            for event in kernels[:TOP]
        ],
    }
