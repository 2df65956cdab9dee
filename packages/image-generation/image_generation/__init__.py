"""Pictures from prompts, by a vLLM-Omni server, as a LangServe chain."""

from image_generation.chain import build_chain, chain
from image_generation.model import ImageModel
from image_generation.picture import Picture
from image_generation.request import Drawing, ImageInput, ImageLimits

__all__ = ["Drawing", "ImageInput", "ImageLimits", "ImageModel", "Picture", "build_chain", "chain"]
