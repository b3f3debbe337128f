"""Errors are told apart: a full device, one that failed, and everything else, which stays a traceback."""

import pytest
import torch

from squeeze.models.failures import reason, trouble
from squeeze.models.sources import LoadError

SAID = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
    (torch.AcceleratorError("CUDA error: out of memory\nmore"), "memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), "device"),
    (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "device"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), None),
    (RuntimeError("out of memory of what was said"), None),
    (LoadError("The weights are damaged (CUDA error: out of memory). Restore them."), None),
    (ValueError("CUDA error: not raised by torch"), None),
]


@pytest.mark.parametrize(("error", "kind"), SAID, ids=[str(error)[:40] for error, _ in SAID])
def test_whose_error_it_is(error, kind):
    assert trouble(error) == kind


def test_a_reason_is_one_line_without_its_stop():
    assert reason(RuntimeError("CUDA out of memory. Tried 2 GiB.\nmore")) == "CUDA out of memory. Tried 2 GiB"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(RuntimeError("x" * 10_000))) == 200
