"""What a kill leaves of a half-installed distribution is found by its RECORD."""

from pathlib import Path

import pytest

from vllm_launcher.fetching.records import broken, forget_broken


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment with one whole distribution."""
    install(tmp_path, "good")
    return tmp_path


def install(site: Path, name: str) -> Path:
    """A distribution of one module, a command and its byte code, as pip leaves them; its .dist-info folder."""
    (site / f"{name}.py").write_text("x = 1\n")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(
        f"{name}.py,sha256=abc,6\n__pycache__/{name}.cpython-311.pyc,,\n{info.name}/INSTALLER,sha256=abc,4\n"
        f"{info.name}/RECORD,,\n"
    )
    return info


def test_a_whole_distribution_stays(site: Path) -> None:
    """Byte code that was removed does not count: Python writes it again."""
    assert forget_broken(site) == []
    assert (site / "good-1.0.dist-info").is_dir()


@pytest.mark.parametrize("content", [None, "", "x = 1", "x = 12345"])
def test_a_missing_or_other_sized_file_breaks_it(site: Path, content: str | None) -> None:
    """By its folder, pip would take the distribution for installed."""
    info = install(site, "bad")
    if content is None:
        (site / "bad.py").unlink()
    else:
        (site / "bad.py").write_text(content)
    assert forget_broken(site) == ["bad-1.0.dist-info"]
    assert not info.exists()
    assert (site / "good-1.0.dist-info").is_dir()


@pytest.mark.parametrize("name", ["RECORD", "INSTALLER"])
def test_one_that_pip_has_not_finished_writing_down_is_broken(site: Path, name: str) -> None:
    """INSTALLER comes after the commands in bin, which the wheel's own RECORD does not know."""
    (install(site, "bad") / name).unlink()
    assert forget_broken(site) == ["bad-1.0.dist-info"]


@pytest.mark.parametrize("record", [b"", b"bad.py\n", b"bad.py,sha256=abc,many\n", b"\xff\xfe,,1\n"])
def test_a_record_that_cannot_be_read_is_a_broken_one(site: Path, record: bytes) -> None:
    """It was being written."""
    (install(site, "bad") / "RECORD").write_bytes(record)
    assert forget_broken(site) == ["bad-1.0.dist-info"]


def test_there_is_nothing_to_forget_where_nothing_is(tmp_path: Path) -> None:
    """A first installation."""
    assert forget_broken(tmp_path / "none") == []


def test_byte_code_that_a_wheel_brought_does_not_count(site: Path) -> None:
    """Made anew by pip for this Python, at another size: numpy brings some."""
    info = install(site, "num")
    (site / "num.pyc").write_bytes(b"anew")
    with (info / "RECORD").open("a") as record:
        record.write("num.pyc,sha256=abc,14213\n")
    assert broken(site) == []


def test_a_file_of_two_distributions_may_be_either_ones(site: Path) -> None:
    """The later one's is there: both builds of OpenCV bring cv2."""
    for name, size in (("one", 3), ("two", 5)):
        with (install(site, name) / "RECORD").open("a") as record:
            record.write(f"shared.so,sha256=abc,{size}\n")
    (site / "shared.so").write_bytes(b"12345")
    assert broken(site) == []
    (site / "shared.so").write_bytes(b"1234")
    assert broken(site) == ["one-1.0.dist-info", "two-1.0.dist-info"]


def test_a_file_taken_out_on_purpose_is_not_missed(site: Path) -> None:
    """Recipes name some."""
    install(site, "audio")
    (site / "audio.py").unlink()
    assert broken(site) == ["audio-1.0.dist-info"]
    assert broken(site, ["audio.py"]) == []
    assert (site / "audio-1.0.dist-info").exists()


def test_a_distribution_of_ours_has_no_sizes_on_record(site: Path) -> None:
    """It is copied in, by nobody who counts."""
    info = install(site, "ours")
    (info / "RECORD").write_text("ours.py,,\n")
    assert broken(site) == []
