"""What this machine has: GPUs, memory, cores.

GPUs come through ``Nvml``, three functions wide, so that a recorded machine serves as well as a real one.
Cores and memory are what this process may use: affinity and control groups count, not the sticker on the box.
Sizes are bytes.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import pynvml  # pyright: ignore[reportMissingTypeStubs]
from pydantic import BaseModel, ConfigDict

GIB = 1 << 30
nvml: Any = pynvml  # it has no types


class Gpu(BaseModel):
    """One NVIDIA GPU. ``index`` is NVML's, in PCI bus order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    name: str
    uuid: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int]


class Hardware(BaseModel):
    """One machine, as far as it may be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: tuple[Gpu, ...] = ()
    cores: int
    memory_total: int
    memory_available: int
    memory_limit: int | None = None
    """What servers on the processor may take in all, where somebody has set it (LANGSERVE_VLLM_MEMORY)."""
    architecture: str = "x86_64"
    driver: str | None = None


class Nvml(Protocol):
    """Where GPUs come from."""

    def driver(self) -> str | None:
        """The driver's version; None without a driver."""
        ...

    def gpus(self) -> Sequence[Gpu]:
        """Every GPU the driver shows; none without a driver."""
        ...


class SystemNvml:
    """The driver of this machine, through NVIDIA's management library."""

    def driver(self) -> str | None:
        """The driver's version; None without a driver."""
        return next(self._ask(lambda: [str(nvml.nvmlSystemGetDriverVersion())]), None)

    def gpus(self) -> Sequence[Gpu]:
        """Every GPU the driver shows; a GPU that does not answer (fallen off the bus) is left out."""
        return list(self._ask(_read_gpus))

    def _ask(self, question: Any) -> Iterator[Any]:
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return
        try:
            yield from question()
        except nvml.NVMLError:
            return
        finally:
            nvml.nvmlShutdown()


def detect(driver: Nvml | None = None, root: Path = Path("/")) -> Hardware:
    """This machine, now. ``root`` is where ``/proc`` and ``/sys`` are found."""
    source = driver or SystemNvml()
    memory = psutil.virtual_memory()
    limit, used = _memory_limit(root)
    return Hardware(
        gpus=tuple(source.gpus()),
        cores=usable_cores(len(os.sched_getaffinity(0)), root),
        memory_total=min(memory.total, limit),
        memory_available=max(0, min(memory.available, limit - used)),
        architecture=platform.machine(),
        driver=source.driver(),
    )


def usable_cores(allowed: int, root: Path = Path("/")) -> int:
    """Whole cores: those the affinity allows, fewer where a control group's quota is smaller. At least 1."""
    quotas = [quota for folder in _control_groups(root, "cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


# --- NVML --------------------------------------------------------------------------------


def _read_gpus() -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            yield _read_gpu(index)
        except nvml.NVMLError:
            continue


def _read_gpu(index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        memory_total=int(memory.total),
        memory_free=int(memory.free),
        compute_capability=(int(major), int(minor)),
    )


# --- control groups ----------------------------------------------------------------------


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and all around it, version 2 and version 1."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder == base or base in folder.parents)


def _cpu_quota(folder: Path) -> float | None:
    """Cores a group may keep busy on average; None without a limit."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota.lstrip("-").isdigit() or not period.isdigit() or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _memory_limit(root: Path) -> tuple[int, int]:
    """The tightest limit of memory around this process, and what is used of it without reclaimable caches."""
    tightest = (1 << 62, 0)
    for folder in _control_groups(root, "memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if limit.isdigit() and int(limit) < tightest[0]:
            tightest = (int(limit), _memory_used(folder))
    return tightest


def _memory_used(folder: Path) -> int:
    current = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes") or "0"
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    return max(0, int(current) - int(statistics.get("inactive_file", statistics.get("total_inactive_file", "0"))))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
