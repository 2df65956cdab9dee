"""Attention of native diffusion pipelines on a CPU."""

from typing import TYPE_CHECKING

from vllm_omni.diffusion.attention.backends.sdpa import SDPABackend, SDPAImpl

if TYPE_CHECKING:
    import torch
    from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata


class CpuSDPAImpl(SDPAImpl):
    """SDPA for a platform that vLLM-Omni does not know by name.

    ``AttentionImpl.forward`` picks a method by platform and raises for one from elsewhere. SDPA's CUDA path
    is plain PyTorch (``torch.nn.functional.scaled_dot_product_attention``): it is right on a CPU too.
    """

    def forward(
        self,
        query: "torch.Tensor",
        key: "torch.Tensor",
        value: "torch.Tensor",
        attn_metadata: "AttentionMetadata | None" = None,
    ) -> "torch.Tensor":
        """Attend. Query, key, value and the result: (batch, sequence, heads, head size)."""
        return self.forward_cuda(query, key, value, attn_metadata)


class CpuSDPABackend(SDPABackend):
    """The only diffusion attention backend of this platform."""

    @staticmethod
    def get_impl_cls() -> type[SDPAImpl]:
        """Return the class that does the work."""
        return CpuSDPAImpl
