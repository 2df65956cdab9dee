"""A place to install and fetch in: a wheelhouse instead of the index, small wheels, and a program to kill."""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import uuid
import zipfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil

from tests.processes import MARK, family, until_gone

PROGRAM = Path(__file__).with_name("preparation_program.py")
ROOT = Path(__file__).parents[2]
DEADLINE = 150.0
"""Seconds for one installation with a real venv and a real pip on a loaded machine."""

Line = dict[str, Any]


def make_wheel(house: Path, name: str, files: Mapping[str, bytes]) -> str:
    """Write ``name`` 1.0 as a wheel with these files; its checksum."""
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents = {**files, **metadata}
    record = "".join(f"{path},,{len(data)}\n" for path, data in contents.items()) + f"{info}/RECORD,,\n"
    house.mkdir(exist_ok=True)
    wheel = house / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in {**contents, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, data)
    return sha256(wheel)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Program:
    """A running ``preparation_program.py``, and what it has said so far."""

    process: asyncio.subprocess.Process
    mark: str
    said: list[Line] = field(default_factory=list[Line])

    async def until(self, key: str, part: str = "") -> Line:
        """The next line of that kind that holds ``part``."""
        async with asyncio.timeout(DEADLINE):
            while line := await self._next():
                if key in line and part in json.dumps(line[key]):
                    return line
        raise AssertionError(f"ended without {key} {part!r}: {self.said[-5:]}")

    async def end(self) -> Line:
        """Wait for the end; the last line."""
        async with asyncio.timeout(DEADLINE):
            while await self._next():
                pass
            await self.process.wait()
        return self.said[-1] if self.said else {}

    async def kill(self) -> None:
        """SIGKILL, and nothing of it may be left."""
        everything = family(self.process.pid, self.mark)
        self.process.kill()
        await self.process.wait()
        left = await asyncio.to_thread(until_gone, everything, within=20.0)
        assert not left, [psutil.Process(process.pid).cmdline() for process in left]

    def phases(self) -> list[str]:
        """What was reported."""
        return [line["report"]["phase"] for line in self.said if "report" in line]

    def runs(self, part: str) -> int:
        """How many programs with ``part`` in their command were run."""
        return sum(any(part in word for word in line["run"]) for line in self.said if "run" in line)

    async def _next(self) -> Line | None:
        assert self.process.stdout is not None
        while text := await self.process.stdout.readline():
            with contextlib.suppress(json.JSONDecodeError):
                self.said.append(json.loads(text))
                return self.said[-1]
        return None


class Workshop:
    """A cache, a wheelhouse that pip takes for the index, and programs started in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.house = folder / "wheelhouse"
        self.house.mkdir()
        self._programs: list[Program] = []

    def add_pip(self) -> str:
        """Put this environment's own pip into the wheelhouse; its line for a lock."""
        pip = distribution("pip")
        wheel = self.house / f"pip-{pip.version}-py3-none-any.whl"
        packed = [
            file for file in pip.files or [] if file.parts[0] != ".." and file.name not in {"RECORD", "INSTALLER"}
        ]
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in packed:
                archive.write(str(file.locate()), str(file))
            record = "".join(f"{file},,\n" for file in packed)
            archive.writestr(f"pip-{pip.version}.dist-info/RECORD", record)
        return f"pip=={pip.version} --hash=sha256:{sha256(wheel)}\n"

    @contextlib.asynccontextmanager
    async def program(self, **work: Any) -> AsyncGenerator[Program, None]:
        """Start the program on a piece of work; gone when the context is."""
        task = self.folder / f"{uuid.uuid4().hex}.json"
        task.write_text(json.dumps(work), encoding="utf-8")
        mark = uuid.uuid4().hex
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), str(task), stdout=asyncio.subprocess.PIPE, env=self._env(mark), limit=1 << 22
        )
        program = Program(process, mark)
        try:
            yield program
        finally:
            if process.returncode is None:
                await program.kill()

    async def run(self, **work: Any) -> Program:
        """Start the program, and wait for its end."""
        async with self.program(**work) as program:
            await program.end()
        return program

    def _env(self, mark: str) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.house),
            "PIP_CONFIG_FILE": os.devnull,
            "LANGSERVE_VLLM_CACHE": str(self.cache),
            MARK: mark,
        }
