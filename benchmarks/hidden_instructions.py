"""Hides instructions from a process, so that whatever it loads runs as on a processor that has none of them.

Libraries ask the processor what it has by CPUID. Where Linux can make that instruction fault (most of Intel's
processors), a handler answers in its place, with the bits of what is hidden left out. No emulator is in the way: all
other instructions run as ever. It is written in LLVM's language, since it runs wherever a library asks, in any thread.
"""

from __future__ import annotations

import ctypes
import os
import signal

import llvmlite.binding as llvm

_SYS_ARCH_PRCTL, _ARCH_SET_CPUID = 158, 0x1012  # of Linux on x86-64; a thread inherits it from the one that starts it
_SA_SIGINFO = 4


def _bits(*places: int) -> int:
    return sum(1 << place for place in places)


# By leaf and register of CPUID 7, as Intel's manual 2A numbers them: AVX-512 with AMX and AVX10, and beside them
# AVX-VNNI and its kin
_BEYOND_AVX_VNNI = {
    (0, "ebx"): _bits(16, 17, 21, 26, 27, 28, 30, 31),
    (0, "ecx"): _bits(1, 6, 11, 12, 14),
    (0, "edx"): _bits(2, 3, 8, 22, 23, 24, 25),
    (1, "eax"): _bits(5, 21),
    (1, "edx"): _bits(8, 19),
}
_BEYOND_AVX2 = {**_BEYOND_AVX_VNNI, (1, "eax"): _bits(4, 5, 21, 23), (1, "edx"): _bits(4, 5, 8, 10, 19)}
HIDDEN = {"avx_vnni": _BEYOND_AVX_VNNI, "avx2": _BEYOND_AVX2, "avx2_words": _BEYOND_AVX2}
"""What is hidden to leave these instructions the fastest, as the service names them."""

# What `on_fault` does: leave a fault that is no CPUID (0f a2) to the system; else let CPUID run once, leave out what is
# hidden, and go on after it. The offsets are those of registers in Linux's ucontext_t: rbx 128, rdx 136, rax 144,
# rcx 152, rip 168.
_HANDLER = """
declare ptr @signal(i32, ptr)

define internal void @let_run(i64 %wanted) {{
  call i64 asm sideeffect "syscall", "={{ax}},{{ax}},{{di}},{{si}},~{{rcx}},~{{r11}},~{{memory}}"(
    i64 {prctl}, i64 {set_cpuid}, i64 %wanted)
  ret void
}}

define void @on_fault(i32 %number, ptr %info, ptr %context) {{
  %at_rip = getelementptr i8, ptr %context, i64 168
  %rip = load ptr, ptr %at_rip
  %code = load i16, ptr %rip, align 1
  %is_cpuid = icmp eq i16 %code, {cpuid}
  br i1 %is_cpuid, label %answer, label %other
other:
  call ptr @signal(i32 %number, ptr null)
  ret void
answer:
  %at_rbx = getelementptr i8, ptr %context, i64 128
  %at_rdx = getelementptr i8, ptr %context, i64 136
  %at_rax = getelementptr i8, ptr %context, i64 144
  %at_rcx = getelementptr i8, ptr %context, i64 152
  %leaf = load i32, ptr %at_rax
  %part = load i32, ptr %at_rcx
  call void @let_run(i64 1)
  %all = call {{i32, i32, i32, i32}} asm sideeffect "cpuid", "={{ax}},={{bx}},={{cx}},={{dx}},{{ax}},{{cx}}"(
    i32 %leaf, i32 %part)
  call void @let_run(i64 0)
  %is_seven = icmp eq i32 %leaf, 7
{registers}
  %after = getelementptr i8, ptr %rip, i64 2
  store ptr %after, ptr %at_rip
  ret void
}}
"""
_REGISTER = """
  %had_{name} = extractvalue {{i32, i32, i32, i32}} %all, {index}
  %is_first_{name} = icmp eq i32 %part, 0
  %is_second_{name} = icmp eq i32 %part, 1
  %of_second_{name} = select i1 %is_second_{name}, i32 {second}, i32 -1
  %of_part_{name} = select i1 %is_first_{name}, i32 {first}, i32 %of_second_{name}
  %kept_{name} = select i1 %is_seven, i32 %of_part_{name}, i32 -1
  %shown_{name} = and i32 %had_{name}, %kept_{name}
  %wide_{name} = zext i32 %shown_{name} to i64
  store i64 %wide_{name}, ptr %at_r{short}
"""


class _Action(ctypes.Structure):
    """What `sigaction` takes on Linux."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_kept: list[llvm.ExecutionEngine] = []  # the handler, which lives as long as the process


def can_hide() -> bool:
    """Say whether CPUID can be made to fault here."""
    return llvm.get_process_triple().startswith("x86_64") and _set_cpuid(1) == 0


def restrict_mkl() -> None:
    """Have MKL use AVX2 in processes that are started from now on: it asks the processor as soon as it is loaded."""
    os.environ["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"


def hide(instructions: str) -> None:
    """Hide what is faster than these instructions from what this thread, and threads that it starts, load from now on.

    Raises OSError where the system cannot.
    """
    if not can_hide():
        raise OSError("CPUID cannot be made to fault on this system")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_source(HIDDEN[instructions])), machine)
    engine.finalize_object()
    _kept.append(engine)
    action = _Action(handler=engine.get_function_address("on_fault"), flags=_SA_SIGINFO)
    if ctypes.CDLL(None, use_errno=True).sigaction(int(signal.SIGSEGV), ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction failed")
    _set_cpuid(0)


def _source(hidden: dict[tuple[int, str], int]) -> str:
    registers = "".join(
        _REGISTER.format(
            name=name,
            short=name[1:],
            index=index,
            first=~hidden.get((0, name), 0),
            second=~hidden.get((1, name), 0),
        )
        for index, name in enumerate(("eax", "ebx", "ecx", "edx"))
    )
    code = int.from_bytes(b"\x0f\xa2", "little", signed=True)
    return _HANDLER.format(prctl=_SYS_ARCH_PRCTL, set_cpuid=_ARCH_SET_CPUID, cpuid=code, registers=registers)


def _set_cpuid(enabled: int) -> int:
    """Let CPUID run, or fault; return 0, or -1 where it cannot be made to fault."""
    return int(ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_SET_CPUID, enabled))
