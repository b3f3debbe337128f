"""What goes wrong on a device itself, told from errors of other kinds: it is full, or it failed."""

from __future__ import annotations

import torch

FULL = (  # of a library that asks the driver by itself, and of cuDNN, which passes over what it finds no room for
    "out of memory", "ALLOC_FAILED", "unable to find an engine", "Unable to find a valid cuDNN algorithm",
)  # fmt: skip
FAILED = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "cuDNN error",
    "cuDNN Frontend error",
    "cublasLt",
    "CUSOLVER_STATUS",
    *FULL[2:],
)


def trouble(error: BaseException) -> str | None:
    """ "memory" where the device was full, "device" where it failed otherwise, None where the error says neither."""
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    if not isinstance(error, torch.AcceleratorError) and type(error) is not RuntimeError:
        return None
    if not any(words in str(error) for words in FAILED):
        return None
    return "memory" if any(words in str(error) for words in FULL) else "device"


def starved(error: BaseException) -> bool:
    """Whether host memory was full."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def reason(error: BaseException) -> str:
    """What an error says, in one line that fits into a sentence."""
    return str(error).splitlines()[0][:200].rstrip(" .") if str(error) else type(error).__name__


def refusals() -> int:
    """How often torch has found no memory on any card so far."""
    if not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_stats(card)["num_ooms"] for card in range(torch.cuda.device_count()))
