"""Engines are installed by a real pip into real environments, from a wheelhouse of tiny wheels."""

import json
from pathlib import Path

import pytest

from tests.process.workshop import Workshop, make_wheel

SIZE = 40


class Engines(Workshop):
    """A workshop with one engine, ``tiny``, of two distributions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recipes = folder / "engines"
        self.recipes.mkdir()
        many = {f"tiny_many/file{number}.py": b"#" * SIZE for number in range(300)}
        one = {"tiny_engine.py": b"ANSWER = 42\n"}
        pins = {name: make_wheel(self.house, name, files) for name, files in (("many", many), ("one", one))}
        lock = "".join(f"{name}==1.0 --hash=sha256:{digest}\n" for name, digest in pins.items())
        self.lock = self.recipes / "tiny.txt"
        self.lock.write_text(self.add_pip() + lock, encoding="utf-8")
        probe = "import tiny_many.file299, tiny_engine; assert tiny_engine.ANSWER == 42"
        recipe = f'title = "A tiny engine"\ndisk_gb = 0.001\nprobe = "{probe}"\n'
        (self.recipes / "tiny.toml").write_text(recipe, encoding="utf-8")

    @property
    def work(self) -> dict[str, str]:
        """To install it."""
        return {"engine": "tiny", "recipes": str(self.recipes)}

    def stamps(self) -> list[Path]:
        """Those of environments that are taken for whole."""
        return list(self.cache.glob("engines/*/.complete"))


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    """A workshop with one tiny engine."""
    return Engines(tmp_path)


async def test_an_engine_is_installed_once(engines: Engines) -> None:
    """The first call makes the environment and says how far it is; the second one runs nothing at all."""
    first = await engines.run(**engines.work)
    assert first.said[-1].get("done"), first.said[-1]
    assert engines.stamps()
    assert "installing engine tiny: checking" in first.phases()

    second = await engines.run(**engines.work)
    assert second.said[-1] == first.said[-1]
    assert not second.runs("")


async def test_a_killed_installation_is_not_taken_for_whole_and_goes_on(engines: Engines) -> None:
    """SIGKILL while pip installs leaves no process and no stamp; the next call completes it."""
    async with engines.program(**engines.work) as program:
        await program.until("run", engines.lock.name)
        await program.kill()
    assert not engines.stamps()

    after = await engines.run(**engines.work)
    assert after.said[-1].get("done"), after.said[-1]
    assert engines.stamps()


async def test_a_distribution_with_a_cut_off_file_is_installed_again(engines: Engines) -> None:
    """A half-written file that pip would take for installed is found by its size, and only its distribution redone."""
    done = (await engines.run(**engines.work)).said[-1]
    site_packages = next(Path(done["done"]).parents[1].glob("lib/python3.*/site-packages"))
    cut = site_packages / "tiny_many" / "file299.py"
    cut.write_bytes(b"")
    untouched = (site_packages / "tiny_engine.py").stat().st_mtime_ns
    engines.stamps()[0].unlink()

    again = await engines.run(**engines.work)
    assert again.said[-1] == done
    assert cut.stat().st_size == SIZE
    assert (site_packages / "tiny_engine.py").stat().st_mtime_ns == untouched


async def test_a_broken_pip_is_replaced_as_a_whole(engines: Engines) -> None:
    """A pip with a cut-off file does not end the way on: the next call brings the pinned one back."""
    done = (await engines.run(**engines.work)).said[-1]
    site_packages = next(Path(done["done"]).parents[1].glob("lib/python3.*/site-packages"))
    (site_packages / "pip" / "__main__.py").write_bytes(b"")
    engines.stamps()[0].unlink()
    again = await engines.run(**engines.work)
    assert again.said[-1] == done


async def test_a_wheel_with_another_checksum_is_refused(engines: Engines) -> None:
    """What is not the pinned file is not installed, and the message says what to do."""
    make_wheel(engines.house, "one", {"tiny_engine.py": b"ANSWER = 'altered'\n"})
    last = (await engines.run(**engines.work)).said[-1]
    assert "pinned" in last["failed"]
    assert last["hint"]
    assert not engines.stamps()


async def test_a_missing_distribution_is_told_in_words(engines: Engines) -> None:
    """A lock that the index cannot serve ends in a sentence, not in a trace."""
    (engines.house / "one-1.0-py3-none-any.whl").unlink()
    last = (await engines.run(**engines.work)).said[-1]
    assert "A tiny engine could not be installed" in last["failed"]
    assert last["hint"]


async def test_two_installations_at_once_are_one(engines: Engines) -> None:
    """The second caller waits, says so, and gets the same environment without running anything."""
    async with engines.program(**engines.work) as first:
        await first.until("run", engines.lock.name)
        async with engines.program(**engines.work) as second:
            await second.until("report", "waiting for another")
            assert await first.end() == await second.end()
    assert not second.runs("")


async def test_an_environment_that_cannot_import_its_engine_is_not_whole(engines: Engines) -> None:
    """The last step imports the engine: where that fails there is no stamp."""
    recipe = engines.recipes / "tiny.toml"
    text = recipe.read_text(encoding="utf-8").replace("import tiny_many", "import missing_module, tiny_many")
    recipe.write_text(text, encoding="utf-8")
    last = (await engines.run(**engines.work)).said[-1]
    assert "cannot be imported" in last["failed"], json.dumps(last)
    assert not engines.stamps()
