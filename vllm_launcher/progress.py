"""How far a long step has come: told by installers, fetchers and converters, shown by everybody else."""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Progress(BaseModel):
    """One report of one phase.

    ``phase`` is the head of a sentence a person reads ("downloading weights"). ``done`` of ``total`` is in
    ``unit``; ``total`` is None where nobody knows it (a phase that only takes time reports 0 of None).
    """

    model_config = ConfigDict(frozen=True)

    phase: str
    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "items"] = "items"

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1, or None where the total is unknown."""
        return min(self.done / self.total, 1.0) if self.total else None


Report = Callable[[Progress], None]
"""Takes progress as it happens. Called from the event loop's thread, as often as the teller likes."""
