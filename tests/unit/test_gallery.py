"""Drawn pictures are kept for a while, under names nobody guesses."""

import os
import time
from pathlib import Path

import pytest
from image_generation import Picture

from app.images.gallery import NAME, PREFIX, Gallery


def picture(size: int = 10, kind: str = "png") -> Picture:
    """A picture of so many bytes."""
    return Picture(b"x" * size, f"image/{kind}", {})


def name_of(url: str) -> str:
    """The last part of a picture's path."""
    return url.removeprefix(PREFIX)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """One for an hour and 100 bytes."""
    return Gallery(tmp_path / "pictures", 3600, 100)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_kept_picture_is_found_by_its_name(gallery: Gallery, kind: str) -> None:
    """With an ending that tells its type."""
    url = gallery.keep(picture(kind=kind))
    found = gallery.find(name_of(url))
    assert url.endswith(f".{kind}")
    assert found is not None
    assert found.read_bytes() == b"x" * 10


def test_names_are_long_and_random(gallery: Gallery) -> None:
    """The same picture twice has two names of 192 random bits."""
    names = {name_of(gallery.keep(picture(1))) for _ in range(20)}
    assert len(names) == 20
    assert all(NAME.fullmatch(name) for name in names)


def test_only_its_user_may_look_into_the_folder(gallery: Gallery) -> None:
    """Names are secrets."""
    gallery.keep(picture())
    assert gallery.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret.png", "a.png", "x" * 32 + ".html", "x" * 32 + ".png\n", "\0"]
)
def test_what_is_no_name_of_ours_is_not_looked_for(gallery: Gallery, name: str) -> None:
    """Wherever it would lead."""
    gallery.keep(picture())
    (gallery.folder.parent / "secret.png").write_bytes(b"secret")
    assert gallery.find(name) is None


def test_an_old_picture_is_not_shown_and_then_removed(gallery: Gallery) -> None:
    """It goes from the disk when the next one comes."""
    old = name_of(gallery.keep(picture()))
    hours_ago = time.time() - 7200
    os.utime(gallery.folder / old, (hours_ago, hours_ago))
    assert gallery.find(old) is None
    gallery.keep(picture())
    assert not (gallery.folder / old).exists()


def test_the_oldest_make_room_for_new_ones(gallery: Gallery) -> None:
    """All together are never larger than allowed."""
    names = [name_of(gallery.keep(picture(30))) for _ in range(3)]
    for age, name in enumerate(reversed(names), start=1):
        made = time.time() - age
        os.utime(gallery.folder / name, (made, made))
    newest = name_of(gallery.keep(picture(60)))
    assert [name for name in (*names, newest) if gallery.find(name)] == [names[2], newest]
