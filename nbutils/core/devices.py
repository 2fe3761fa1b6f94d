"""Which device and number format a model runs in, chosen by what the hardware can do, with the reason."""

import os
import shutil
import subprocess
import sys
from typing import Any, NamedTuple


class Precision(NamedTuple):
    """A choice of device and compute dtype (`torch` name), and why."""

    device: str
    dtype: str
    reason: str

    @property
    def torch_dtype(self) -> Any:
        """The dtype as torch's own object."""
        import torch

        return getattr(torch, self.dtype)

    @property
    def local_device(self) -> str:
        """The device of this process, where a launcher has started one for each GPU of the machine."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.device == "cuda" else self.device


def choose_precision() -> Precision:
    """bf16 on Ampere and newer, fp16 on older GPUs, fp32 on a CPU.

    bf16 is judged by compute capability: `torch.cuda.is_bf16_supported()` also counts slow emulation. fp16 on a CPU
    is some twenty times slower than fp32.
    """
    import torch

    if not torch.cuda.is_available():
        return Precision("cpu", "float32", "no CUDA device: fp32 on the CPU")
    major, minor = torch.cuda.get_device_capability()
    name = torch.cuda.get_device_name()
    if major >= 8:
        return Precision("cuda", "bfloat16", f"{name} has bf16 units (compute capability {major}.{minor})")
    return Precision("cuda", "float16", f"{name} has no bf16 units (compute capability {major}.{minor}): fp16")


def processes() -> int:
    """How many processes train together, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def peak_memory_gb() -> float:
    """Highest memory use so far, in GB: of the GPU where there is one, else of the process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6


def describe_device() -> str:
    """The device in words, found without importing torch."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip().splitlines()[0]
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
