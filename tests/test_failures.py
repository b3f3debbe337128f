"""Errors are told apart: a full device, one that failed, and everything else, which stays a traceback."""

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt

from squeeze.models import loading
from squeeze.models.failures import reason, trouble
from squeeze.models.profiles import find_profile
from squeeze.models.sources import LoadError

SAID = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
    (torch.AcceleratorError("CUDA error: out of memory\nmore"), "memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
    (RuntimeError("GET was unable to find an engine to execute this computation"), "memory"),
    (RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED"), "device"),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), "device"),
    (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "device"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
    (RuntimeError("cuDNN Frontend error: No valid execution plans built."), "device"),
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


def breaks(*_, **__):
    raise RuntimeError("no kernel image\nmore")


def test_a_bitsandbytes_that_does_not_work_is_not_the_weights_fault(monkeypatch):
    place = torch.device("cpu")
    loading.check_bitsandbytes(place)
    monkeypatch.setattr(Linear8bitLt, "forward", breaks)
    with pytest.raises(LoadError, match=r"bitsandbytes .* does not work on cpu \(no kernel image\)\. Install"):
        loading.check_bitsandbytes(place)


def test_a_machine_that_cannot_compile_says_so_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: breaks)
    with pytest.raises(LoadError, match=r"compiled for cpu here \(no kernel image\).*leave --compile out"):
        loading.load(find_profile("plush"), compiled=True)
