"""What vLLM-Omni asks of a platform, answered for a CPU.

Follows ``vllm_omni/platforms/interface.py`` of vLLM-Omni 0.30 and, as an example, its CUDA platform.
"""

import resource
from typing import ClassVar

import psutil
import torch
from vllm.platforms.cpu import CpuPlatform  # noqa: TID251 - this file runs inside the engine
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum

ATTENTION = "vllm_omni_cpu.attention.CpuSDPABackend"
ATTENTION_NAME = "TORCH_SDPA"
KIB = 1024


class CpuOmniPlatform(OmniPlatform, CpuPlatform):
    """vLLM's CPU platform, with what vLLM-Omni asks for besides. Memory is the machine's, in bytes."""

    _omni_enum: ClassVar[OmniPlatformEnum] = OmniPlatformEnum.OOT

    # --- the device ------------------------------------------------------------------------

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        """Return the one device there is, whatever the rank."""
        del local_rank
        return torch.device("cpu")

    @classmethod
    def get_device_count(cls) -> int:
        """Count the devices: one."""
        return 1

    @classmethod
    def get_device_version(cls) -> str | None:
        """Return None: this names a toolkit (CUDA 13.0), and a CPU has none."""
        return None

    @classmethod
    def is_available(cls) -> bool:
        """Whether an accelerator is there, with a memory of its own to measure and to empty."""
        return False

    @classmethod
    def synchronize(cls) -> None:
        """Return at once: nothing runs asynchronously."""

    @classmethod
    def empty_cache(cls) -> None:
        """Do nothing: PyTorch keeps no cache of host memory."""

    # --- memory ----------------------------------------------------------------------------

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        """Bytes that can be used without swapping."""
        del device
        return psutil.virtual_memory().available

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        """Return (free, total) in bytes."""
        return cls.get_free_memory(device), psutil.virtual_memory().total

    @classmethod
    def reset_peak_memory_stats(cls, device: torch.device | None = None) -> None:
        """Do nothing: a process cannot lower its own peak."""

    @classmethod
    def max_memory_allocated(cls, device: torch.device | None = None) -> int:
        """Peak of this process's resident memory since it started."""
        del device
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB

    @classmethod
    def max_memory_reserved(cls, device: torch.device | None = None) -> int:
        """Return the same: nothing is reserved that is not resident."""
        return cls.max_memory_allocated(device)

    @classmethod
    def supports_cpu_offload(cls) -> bool:
        """Whether weights can be moved out of the way; here they would stay where they are."""
        return False

    # --- computing -------------------------------------------------------------------------

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        """Whether pipelines are compiled: no, it takes minutes and a C++ compiler on the machine."""
        return False

    @classmethod
    def supports_diffusion_dense_flash_attention(cls) -> bool:
        """Whether FlashAttention is there: its kernels are for GPUs."""
        return False

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls,
        selected_backend: str | None,
        head_size: int,
        allow_trtllm_default: bool = False,  # noqa: FBT001, FBT002
    ) -> str:
        """Name the attention class.

        Raises:
            ValueError: another backend than TORCH_SDPA was asked for.
        """
        del head_size, allow_trtllm_default
        if selected_backend is not None and selected_backend.upper() != ATTENTION_NAME:
            raise ValueError(
                f"The {selected_backend} diffusion attention backend does not run on a CPU. "
                f"Leave --diffusion-attention-backend out, or set it to {ATTENTION_NAME}."
            )
        return ATTENTION
