"""How installers and converters are run: passed in, so that tests need no processes."""

from collections.abc import Callable
from typing import Protocol

from vllm_launcher.processes.process import Finished, Launch


class Run(Protocol):
    """Runs a program to its end. Cancelled, it kills the program first."""

    async def __call__(self, launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
        """How it ended; each line it prints goes to ``on_line`` as it comes."""
        ...
