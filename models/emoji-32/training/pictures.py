# ruff: noqa: INP001 - scripts beside a checkpoint, not a package
"""The pictures emoji-32 learns: 47 of Twemoji, out of the npm package emoji-datasource-twitter 16.0.0."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIDE = 32
CATEGORIES = frozenset({"Animals & Nature", "Food & Drink"})
SUBJECTS = (
    "red apple", "banana", "watermelon", "strawberry", "hamburger", "cookie", "hot beverage", "carrot", "cherries",
    "mushroom", "dog face", "cat face", "panda face", "frog face", "lion face", "pig face", "monkey face", "bear face",
    "rabbit face", "elephant", "whale", "octopus", "tropical fish", "honeybee", "lady beetle", "butterfly", "turtle",
    "penguin", "unicorn face", "fox face", "koala", "sunflower", "tulip", "rose", "cactus", "four leaf clover",
    "evergreen tree", "tangerine", "grapes", "pineapple", "doughnut", "birthday cake", "ice cream", "bread",
    "cheese wedge", "french fries", "lemon",
)  # fmt: skip


def load_pictures(package: Path) -> torch.Tensor:
    """The pictures in the order of ``SUBJECTS``: (47, 3, 32, 32), between -1 and 1, on white.

    ``package`` is the unpacked npm package (the folder with ``emoji.json``).
    """
    entries = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
    images = {_name(entry): entry["image"] for entry in reversed(entries) if entry["category"] in CATEGORIES}
    pixels = np.stack([_pixels(package / "img/twitter/64" / images[subject]) for subject in SUBJECTS])
    pictures = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.interpolate(pictures, size=(SIDE, SIDE), mode="area")


def _name(entry: dict[str, str]) -> str:
    return (entry["name"] or entry["short_name"]).lower()


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB").resize((64, 64)))
