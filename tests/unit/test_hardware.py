"""Cores, memory and GPUs as this process may use them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from vllm_launcher.hardware import GIB, Gpu, Hardware, SystemNvml, detect, usable_cores

A10 = Gpu(
    index=0,
    name="NVIDIA A10",
    uuid="GPU-1",
    memory_total=24 * GIB,
    memory_free=23 * GIB,
    compute_capability=(8, 6),
)


class RecordedNvml:
    """A driver that shows what it is told to."""

    def __init__(self, *gpus: Gpu) -> None:
        self._gpus = gpus

    def driver(self) -> str | None:
        """A version where there are GPUs."""
        return "580.65" if self._gpus else None

    def gpus(self) -> Sequence[Gpu]:
        """Those it was given."""
        return self._gpus


def write(root: Path, files: dict[str, str]) -> Path:
    """A tree with those files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_machine_has_cores_and_memory() -> None:
    """The real one, whatever it is: at least one core, and no more memory free than there is."""
    hardware = detect()
    assert hardware.cores >= 1
    assert 0 < hardware.memory_available <= hardware.memory_total


def test_gpus_come_from_the_driver() -> None:
    """What NVML shows is what the hardware holds."""
    hardware = detect(RecordedNvml(A10))
    assert hardware.gpus == (A10,)
    assert hardware.driver == "580.65"


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    """No library, no driver, no GPU: an empty list, not an error."""
    if SystemNvml().driver() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    assert detect().gpus == ()


def test_hardware_is_recorded_and_read_back() -> None:
    """As JSON: that is how machines come into tests."""
    hardware = detect(RecordedNvml(A10))
    assert Hardware.model_validate_json(hardware.model_dump_json()) == hardware


def test_a_quota_of_a_control_group_bounds_the_cores(tmp_path: Path) -> None:
    """Version 2: 150 ms in every 100 ms are one whole core."""
    root = write(tmp_path, {"proc/self/cgroup": "0::/app/web\n", "sys/fs/cgroup/app/cpu.max": "150000 100000\n"})
    assert usable_cores(8, root) == 1


def test_a_quota_of_version_1_bounds_the_cores_too(tmp_path: Path) -> None:
    """The older files under the controller's own mount."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    }
    assert usable_cores(8, write(tmp_path, files)) == 3


@pytest.mark.parametrize("quota", ["max 100000", "-1", "", "garbage"])
def test_no_quota_leaves_the_cores_the_affinity_allows(tmp_path: Path, quota: str) -> None:
    """Also where the file says nothing that can be understood."""
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    assert usable_cores(6, root) == 6


def test_a_quota_below_one_core_still_leaves_one(tmp_path: Path) -> None:
    """A server needs at least one thread."""
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000"})
    assert usable_cores(6, root) == 1


def test_a_memory_limit_counts_and_reclaimable_caches_do_not(tmp_path: Path) -> None:
    """Of 1 GiB allowed and 800 MiB used, 300 MiB are file caches: 524 MiB are free."""
    mib = 1 << 20
    files = {
        "proc/self/cgroup": "0::/pod\n",
        "sys/fs/cgroup/memory.max": "max",
        "sys/fs/cgroup/pod/memory.max": str(1024 * mib),
        "sys/fs/cgroup/pod/memory.current": str(800 * mib),
        "sys/fs/cgroup/pod/memory.stat": f"anon {500 * mib}\ninactive_file {300 * mib}\n",
    }
    hardware = detect(RecordedNvml(), write(tmp_path, files))
    assert hardware.memory_total == 1024 * mib
    assert hardware.memory_available == 524 * mib
