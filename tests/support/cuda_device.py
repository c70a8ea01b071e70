"""What tests on a CUDA device have in common."""

import os

import pytest
import torch

DEVICE = "cuda"


@pytest.fixture(scope="session", autouse=True, name="device")
def cuda_device() -> torch.device:
    """The device; products in fp32 are fp32 products, as in a run without precision=tf32."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # cuBLAS reads it at the first product of a process; a run sets it too, but a test may compute before it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(DEVICE)
