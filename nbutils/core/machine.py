"""The machine: which device and number format a model runs in, with the reason, and how progress is shown.

Progress is a bar on a terminal, and a plain line now and then in a notebook or a log.
"""

import contextlib
import gc
import logging
import math
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from nbutils.core.errors import InputError

SECONDS_BETWEEN_LINES = 10.0


# --- devices -------------------------------------------------------------------------------------------------------


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

    def nf4(self, **more: Any) -> Any:
        """Settings of bitsandbytes: NF4 with double quantisation (QLoRA, 2305.14314), computed in this dtype."""
        from transformers import BitsAndBytesConfig

        kind = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=self.torch_dtype, **kind, **more)


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


def is_first_process() -> bool:
    """Whether this process is the first of those that train together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_sharded() -> bool:
    """Whether the launcher has asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_sharding() -> None:
    """Refuse FSDP's first version, in which PEFT finds no adapter to save and gradients are added up in 16 bits."""
    if is_sharded() and os.environ.setdefault("FSDP_VERSION", "2") != "2":
        raise InputError(
            "FSDP's first version is not supported: set fsdp_version: 2 (profiles/accelerate/fsdp-full.yaml)"
        )


def free_bytes(device: str) -> float:
    """Memory that can still be had on a device ("cuda", "cpu"), in bytes; on a CPU within the limit of its cgroup."""
    import torch

    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch's own, for its next tensors
        return float(torch.cuda.mem_get_info()[0] + kept)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(float(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except OSError:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(free, _free_in_cgroup(Path("/sys/fs/cgroup")))


def _free_in_cgroup(folder: Path) -> float:
    """What a container's limit leaves, files that may be dropped counted as free; infinite without one (cgroup v2)."""
    try:
        most = float((folder / "memory.max").read_text(encoding="ascii").replace("max", "inf"))
        used = float((folder / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return math.inf
    return max(0.0, most - used + float(stat.get("inactive_file", 0)))


def free_memory() -> None:
    """Give back the memory of models that nobody uses any more.

    A trainer and what it trained refer to each other, so they live until Python's collector comes by, and on a card
    torch keeps their memory even then. bitsandbytes keeps the embedding of every model that an 8-bit optimizer trained.
    """
    torch, bitsandbytes = sys.modules.get("torch"), sys.modules.get("bitsandbytes")
    if torch is None:
        return
    if bitsandbytes:
        bitsandbytes.optim.GlobalOptimManager.get_instance().module_weight_config_triple.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def size_text(size: float) -> str:
    """A number of bytes in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if unit != 1e6 else f"{size / unit:.0f} {name}"
    return f"{size:.0f} bytes"


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


# --- progress ------------------------------------------------------------------------------------------------------


def track(items: Iterable[Any], label: str, total: int | None = None, initial: int = 0) -> "tqdm[Any]":
    """Wrap an iterable (or count from `initial` to `total` by hand with `.update`) with progress on stderr."""
    interactive = sys.stderr.isatty()
    plain = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left{postfix}"
    if total is None and not hasattr(items, "__len__"):
        plain = "{desc}: {n_fmt} so far, {elapsed} elapsed, no end known{postfix}"
    # A notebook shows what goes to stderr as if something were wrong.
    log = sys.stdout if hasattr(running_shell(), "kernel") else sys.stderr
    return _Bar(
        items,
        desc=label,
        total=total,
        initial=initial,
        file=sys.stderr if interactive else _Lines(log),
        ascii=not interactive,
        mininterval=0.2 if interactive else SECONDS_BETWEEN_LINES,
        delay=1.0,
        position=0,  # below a bar that a library left open, lines would begin with movements of the cursor
        bar_format=None if interactive else plain,
    )


class _Bar(tqdm):
    """A bar whose estimate leaves out the first items shown: those also waited for what was loaded and compiled."""

    begun: tuple[float, float] | None = None  # how many they were, and after how many seconds

    def update(self, n: float | None = 1) -> bool | None:
        """As tqdm does it, and remember when the first items were done."""
        self.begun = self.begun or (self.n + (n or 0), self.format_dict["elapsed"])
        return super().update(n)

    @property
    def format_dict(self) -> Any:
        """What tqdm shows; the rate is 0, which it shows as unknown, while there is nothing to estimate from."""
        found = super().format_dict
        if self.begun and found["n"] != found["total"]:
            items, seconds = found["n"] - self.begun[0], found["elapsed"] - self.begun[1]
            found["rate"] = items / seconds if items > 0 and seconds > 0 else 0.0
        return found


def running_shell() -> Any:
    """The IPython shell that runs this code, a notebook's among them; None where there is none."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class _Lines:
    """A log under a bar: whole lines without carriage returns, and none of them twice."""

    def __init__(self, log: TextIO):
        self.log, self.last = log, ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.last:
            self.log.write(f"{line}\n")
            self.last = line

    def flush(self) -> None:
        self.log.flush()


@contextlib.contextmanager
def plain_bars() -> Iterator[None]:
    """Show the bars of libraries, outside of a terminal, as `track` shows ours: as plain lines now and then."""
    if sys.stderr.isatty():
        yield
        return
    log = sys.stdout if hasattr(running_shell(), "kernel") else sys.stderr
    bars: Any = _Bars(log, sys.stderr)
    with contextlib.redirect_stderr(bars):
        yield


class _Bars(_Lines):
    """Stands for stderr: what begins with a carriage return is a bar, and all else goes on to stderr."""

    def __init__(self, log: TextIO, errors: TextIO):
        super().__init__(log)
        self.errors, self.shown, self.in_bar = errors, time.monotonic(), False

    def write(self, text: str) -> None:
        if text.startswith("\r"):
            if time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES:
                super().write(text)
                self.shown = time.monotonic()
        elif text.strip() or not self.in_bar:  # else the end of a bar's line
            self.errors.write(text)
        self.in_bar = text.startswith("\r")


def quiet_libraries() -> None:
    """Keep out of logs what says nothing of a run: bars of loading, notes of absent kernels and new names."""
    import transformers

    # transformers renames the setting; its older releases, which Colab has, know the old name only.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()


_NEEDLESS = {
    # Said while it is imported, on CPUs with AVX512-BF16: a kernel is not installed, for which nothing here asks.
    # Whoever imports PEFT or a trainer imports it, long before a model is loaded.
    "bitsandbytes.backends.cpu.ops": ("gemm_4bit_forward from kernels-community",),
    # A model that is loaded already is what stage 08 means to measure.
    "lm_eval.models.huggingface": ("model kwarg is not of type `str`", "an already-initialized model"),
    "lm_eval.api.task": ("Custom kwargs can be passed to `--metadata`",),
    # A killed kernel is told in one line by whoever waited for it; after Ctrl-C nobody waits any longer.
    "papermill": ("Kernel died while waiting for execute reply",),
    "asyncio": ("exception=DeadKernelError(",),
}


def _is_news(record: logging.LogRecord) -> bool:
    return not any(needless in record.getMessage() for needless in _NEEDLESS[record.name])


for _name in _NEEDLESS:
    logging.getLogger(_name).addFilter(_is_news)
