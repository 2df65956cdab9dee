"""The numbers of a model that memory and parallelism depend on, as values. Sizes are bytes."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(_Frozen):
    """A language, vision or embedding model.

    ``kv_layers`` hold a cache for the whole context, ``window_layers`` for ``window`` tokens only, the others none.
    ``latent`` is the width of a compressed cache (MLA: one vector for all heads); 0 for keys and values by head.
    ``experts`` is 0 for a dense model. ``parameters`` count everything, ``active`` what one token passes through.
    """

    architecture: str
    origin: str
    parameters: int
    active: int
    embedding_parameters: int
    vision_parameters: int = 0
    dtype: str = "bfloat16"
    quantization: str | None = None
    bits: float = 16
    weight_bytes: int | None = None
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    context: int
    experts: int = 0
    expert_width: int = 0
    kv_layers: int
    window_layers: int = 0
    window: int = 0
    latent: int = 0
    remote_code: bool = False

    def weights(self, dtype_bytes: int = 2) -> int:
        """Bytes of the weights as they lie in memory; what is not quantized has ``dtype_bytes`` each.

        Embeddings and vision parts are left as they were by every method but GGUF.
        """
        if self.quantization is None:
            return self.parameters * dtype_bytes
        if self.weight_bytes is not None:
            return self.weight_bytes
        plain = 0 if self.quantization == "gguf" else self.embedding_parameters + self.vision_parameters
        return int((self.parameters - plain) * self.bits / 8) + plain * dtype_bytes


class DiffusionFacts(_Frozen):
    """An image pipeline: parameters of each of its parts, which may be on a GPU one at a time."""

    pipeline: str
    origin: str
    parts: Mapping[str, int]
    dtype: str = "bfloat16"
    native: bool = True

    @property
    def parameters(self) -> int:
        """Of all parts together."""
        return sum(self.parts.values())


Facts = ModelFacts | DiffusionFacts
