"""Two mends of Triton's interpreter, which tests run kernels in where there is no GPU. No test lives here.

Of Triton 3.6: it multiplies bfloat16 numbers as if their bits were integers, and it turns arrays of one element into
numbers in a way that numpy 2.5 refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def mended() -> Any:
    """Import Triton's interpreter and mend it, unless that was done; -> its module."""
    import triton.language as tl
    from triton.runtime import interpreter

    if hasattr(interpreter, "is_mended"):
        return interpreter
    patch_tensor, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return dot(self, *(as_float32(one) if one.dtype.scalar == tl.bfloat16 else one for one in (a, b)), d, *rest)

    def as_float32(handle: Any) -> Any:
        values = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(values, tl.float32)

    interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot = patch_lang_tensor, create_dot
    interpreter.is_mended = True
    return interpreter
