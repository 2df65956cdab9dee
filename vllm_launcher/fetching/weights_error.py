"""What can go wrong with weights."""

from vllm_launcher.errors import LauncherError


class WeightsError(LauncherError):
    """Weights could not be had. ``permanent``: the same call will fail the same way until somebody mends the cause."""

    def __init__(self, reason: str, hint: str | None = None, *, permanent: bool = True) -> None:
        super().__init__(reason, hint)
        self.permanent = permanent
