"""Which executor runs a model on this machine: asked once, at start."""

from __future__ import annotations

from types import ModuleType
from typing import Literal, get_args

from service.errors import BadInput
from service.executors import cuda
from service.executors.eager import EagerExecutor
from service.executors.executor import Executor
from service.models.device import available_cores, choose_device
from service.models.multi_exit import MultiExitModel

ExecutorName = Literal["auto", "cuda", "eager", "fused"]


def make_executor(name: str, model: MultiExitModel, *, device: str = "auto", threads: int = 0) -> Executor:
    """Make the named executor; auto takes the one that was measured to be fastest, among those that can run the model.

    threads: how many to use on a CPU, 0 for as many as there are cores. Raises BadInput for a name or device that is
    unknown, and for an executor that cannot run the model here.
    """
    if name not in get_args(ExecutorName):
        raise BadInput(f"executor {name!r} is unknown; expected one of {list(get_args(ExecutorName))}")
    chosen = choose_device(device)
    if name == "eager" or (name == "auto" and chosen.type != "cpu"):
        return EagerExecutor(model, chosen, threads)
    if name == "cuda":
        if reason := cuda.reason_against(model.config, chosen):
            raise BadInput(f"executor cuda cannot run this model here: {reason}; use executor auto or eager")
        return cuda.CudaExecutor(model, cuda.Gpu(chosen))
    if chosen.type != "cpu":
        raise BadInput(f"executor fused runs on a CPU, not on {chosen.type}; use device cpu, or executor auto or eager")
    fused = import_fused()
    reason = fused.reason_against(model.config)
    if name == "auto" and (reason or not fused.is_fast_here()):
        return EagerExecutor(model, chosen, threads)
    if reason:
        raise BadInput(f"executor fused cannot run this model: {reason}; use executor auto or eager")
    executor: Executor = fused.FusedExecutor(model, threads or available_cores())
    return executor


def import_fused() -> ModuleType:
    """Import the fused executor's module, and with it numba and LLVM, which no other executor needs."""
    try:
        from service.executors import fused
    except RuntimeError as error:  # numba found no folder for what it compiles
        raise BadInput(
            f"the kernels of executor fused cannot be kept on disk: {error}; set NUMBA_CACHE_DIR to a folder that can "
            "be written to, or use executor eager"
        ) from error
    return fused
