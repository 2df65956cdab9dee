"""How each engine is installed: the files under ``engines/``.

``<engine>.in`` says what is wanted, ``make lock-engines`` pins it in ``.txt`` (what ``.excludes`` names is left out of
the resolution), ``.toml`` says how it is installed, and ``runtime/`` has small distributions of our own.
"""

import hashlib
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ENGINES = Path(__file__).parents[1] / "engines"
NOT_INSTALLED = frozenset({"tests", "__pycache__"})


class Recipe(BaseModel):
    """How one engine is installed: the keys of ``engines/<engine>.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    disk_gb: float
    probe: str
    """Python that fails unless the engine can be imported."""
    torch: str | None = None
    torch_index: str | None = None
    local: tuple[str, ...] = ()
    """Distributions under ``engines/runtime`` that go in after the lock."""
    remove: tuple[str, ...] = ()
    """Files, relative to site-packages, that must not be there."""


@dataclass(frozen=True)
class Recipes:
    """A folder of them."""

    folder: Path = ENGINES

    def names(self) -> list[str]:
        """Every engine that can be installed."""
        return sorted(path.stem for path in self.folder.glob("*.toml"))

    def read(self, name: str) -> Recipe:
        """The recipe of an engine."""
        return Recipe.model_validate(tomllib.loads((self.folder / f"{name}.toml").read_text(encoding="utf-8")))

    def lock(self, name: str) -> Path:
        """Its pinned distributions, with their hashes."""
        return self.folder / f"{name}.txt"

    def missing(self, name: str, distributions: Iterable[str]) -> list[str]:
        """Which of these its lock does not hold."""
        return [distribution for distribution in distributions if not stanza(self.lock(name), distribution)]

    def digest(self, name: str) -> str:
        """Changes with every file that decides what the environment holds."""
        digest = hashlib.sha256()
        for path in (self.lock(name), self.folder / f"{name}.toml", *self._local_files(name)):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    def install_local(self, name: str, site_packages: Path) -> None:
        """Put the engine's own small distributions in, and what must not be there out."""
        for part in self._local_parts(name):
            shutil.copytree(
                part, site_packages / part.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        for unwanted in self.read(name).remove:
            (site_packages / unwanted).unlink(missing_ok=True)

    def _local_parts(self, name: str) -> Iterator[Path]:
        for local in self.read(name).local:
            for part in sorted((self.folder / "runtime" / local).iterdir()):
                if part.is_dir() and part.name not in NOT_INSTALLED:
                    yield part

    def _local_files(self, name: str) -> Iterator[Path]:
        for local in self.read(name).local:
            for path in sorted((self.folder / "runtime" / local).rglob("*")):
                if path.is_file() and not NOT_INSTALLED.intersection(path.parts):
                    yield path


def stanza(lock: Path, name: str) -> list[str]:
    """The lines of one distribution in a lock: its pin and its hashes."""
    found: list[str] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}==") or (found and line.startswith(" ")):
            found.append(line)
        elif found:
            break
    return found


def count(lock: Path) -> int:
    """How many distributions a lock pins."""
    return sum(line[:1].isalnum() and "==" in line for line in lock.read_text(encoding="utf-8").splitlines())
