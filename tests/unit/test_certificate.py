"""A certificate and its key are tried before anybody connects."""

from pathlib import Path

import pytest

from app.guard.certificate import read_pair
from tests.certificates import make_certificate


def test_a_pair_is_read_as_it_is(tmp_path: Path) -> None:
    """The key first, as gRPC takes them."""
    shown, key = make_certificate(tmp_path)
    assert read_pair(shown, key) == (key.read_bytes(), shown.read_bytes())
    assert read_pair(None, None) is None


def test_what_cannot_be_used_is_told_in_words(tmp_path: Path) -> None:
    """One file of two, a file that is missing, files that are something else, a key of another certificate."""
    shown, _ = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = make_certificate(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for pair, words in {
        (shown, None): "needs two files",
        (shown, tmp_path / "none.pem"): "cannot be read",
        (text, text): "no certificate and its key",
        (shown, other): "no certificate and its key",
    }.items():
        with pytest.raises(OSError, match=words):
            read_pair(*pair)
