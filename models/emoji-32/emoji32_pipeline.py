# ruff: noqa: INP001 - part of a checkpoint, not of a package
"""The pipeline of emoji-32, as diffusers loads it from this folder (``custom_pipeline="emoji32_pipeline"``).

The file's name says whose it is: diffusers copies such files into one folder for all models.
"""

import torch
from diffusers import PRXPixelPipeline
from diffusers.pipelines.prx.pipeline_output import PRXPipelineOutput

STEPS = 20
GUIDANCE = 2.0


class Emoji32Pipeline(PRXPixelPipeline):
    """PRXPixel at the one size this model was trained at."""

    def __call__(  # noqa: PLR0913, PLR0917 - diffusers' own signature
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> PRXPipelineOutput:
        """Draw. The parameters are those of ``PRXPixelPipeline.__call__``.

        The picture has 32x32 pixels whatever ``height`` and ``width`` say: the engine's warm-up asks for 512x512,
        which takes a minute and draws nothing sensible. ``guidance_scale`` below 1 counts as 1 (no guidance).
        Pictures are drawn one by one: with guidance, diffusers 0.40 gives the transformer two timesteps whatever
        the batch, and several at once end in an error.
        """
        del height, width
        side = self.config.default_sample_size
        images: list[object] = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            for _ in range(num_images_per_prompt):
                output = super().__call__(
                    prompt=text,
                    negative_prompt=negative_prompt,
                    height=side,
                    width=side,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=max(guidance_scale, 1.0),
                    generator=generator,
                    output_type=output_type,
                    use_resolution_binning=False,
                )
                images.extend(output.images)
        return PRXPipelineOutput(images=images)
