"""Which executor runs a model on this machine: asked once, at start."""

from __future__ import annotations

import platform
from types import ModuleType
from typing import Literal, get_args

from service.errors import BadInput
from service.executors import cuda
from service.executors.eager import EagerExecutor
from service.executors.executor import Executor
from service.models.device import available_cores, choose_device
from service.models.multi_exit import MultiExitModel

ExecutorName = Literal["auto", "cuda", "eager", "fused"]


def make_executor(
    name: str, model: MultiExitModel, *, device: str = "auto", threads: int = 0, instructions: str = "auto"
) -> Executor:
    """Make the named executor; auto takes the one that was measured to be fastest, among those that can run the model.

    threads       how many to use on a CPU, 0 for as many as there are cores
    instructions  that the kernels on a CPU use, as if the processor had no faster ones, and the same in the whole
                  process; auto: the fastest that it has

    Raises BadInput for a name or device that is unknown, for instructions that are unknown or not there, and for an
    executor that cannot run the model here.
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
    if name == "auto" and (reason or not fused.is_fast_here(instructions)):
        return EagerExecutor(model, chosen, threads)
    if reason:
        raise BadInput(f"executor fused cannot run this model: {reason}; use executor auto or eager")
    fused.use_instructions(instructions)
    executor: Executor = fused.FusedExecutor(model, threads or available_cores())
    return executor


def given_up(executor: Executor, name: str, instructions: str = "auto") -> str | None:
    """Say what would be faster on a CPU than what runs, and why it does not run; None where nothing would.

    executor: what `make_executor` made of this name and these instructions
    """
    described = executor.describe()
    if described["device"] != "cpu":
        return None
    if name == "eager":
        return "int8 kernels, since executor eager was asked for"
    fused, is_fused = import_fused(), described["executor"] == "fused"
    if not is_fused and (reason := fused.reason_against(executor.config)):
        return f"int8 kernels, which cannot run this model: {reason}"
    if not (faster := ", ".join(fused.faster_instructions(instructions))):
        return None
    lacking = f"this processor ({platform.machine()}) has none of them"
    why = lacking if instructions == "auto" else f"instructions {instructions} were asked for"
    return f"{'' if is_fused else 'int8 kernels by '}{faster}, since {why}"


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
