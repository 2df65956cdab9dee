"""Run the app: ``python -m app``, with everything it needs in its environment (see ``app/settings.py``)."""

import errno
import gc
import socket
import sys
import warnings
from typing import NoReturn

from pydantic import ValidationError

from app.guard.certificate import read_pair
from app.settings import Settings
from vllm_launcher.keys import MAKE_ONE, NO_KEYS, KeyStore


class NoKeysError(Exception):
    """Nobody could get in."""


CANNOT_START = 3
"""Exit status: the port is taken or something it was told is wrong. Starting it again changes nothing."""


def main() -> None:
    """Serve until told to stop.

    The port is opened first: importing LangChain takes seconds, in which connections wait instead of being refused.
    """
    # LangServe's playgrounds live on it; the notice would come with every first request.
    warnings.filterwarnings("ignore", "astream_log is deprecated")
    try:
        settings = Settings()
        check_keys(settings)
        listener = listen(settings.host, settings.port)
        if settings.grpc_port:  # tried now, opened with the app
            listen(settings.host, settings.grpc_port, named="GRPC_PORT").close()
            read_pair(*settings.grpc_files)
    except (ValidationError, OSError, NoKeysError) as error:
        give_up(error)

    gc.disable()  # importing makes a million objects and hardly any garbage: looking for it takes a quarter of the time
    from app.chains import ChainError  # noqa: PLC0415 -- see above
    from app.memory.kept import StoreError  # noqa: PLC0415
    from app.server import create_app  # noqa: PLC0415
    from app.web_server import run  # noqa: PLC0415
    from vllm_launcher.registry import RegistryError  # noqa: PLC0415

    gc.collect()  # what little there is makes room for the app
    try:
        app = create_app(settings)
    except (RegistryError, ChainError, StoreError) as error:
        give_up(error)
    gc.collect()
    gc.enable()
    gc.freeze()  # what is there now stays: to look it through again and again costs more than most requests
    run(app, settings, listener)


def check_keys(settings: Settings) -> None:
    """Refuse to start where keys are needed and there is none.

    Raises:
        NoKeysError: There is none.
    """
    if not settings.needs_keys:
        return
    if settings.keys is None:
        raise NoKeysError("API keys are needed, and LANGSERVE_VLLM_KEYS names no file of them.")
    with KeyStore.opened(settings.keys) as store:
        if not store.any_active():
            raise NoKeysError(f"{NO_KEYS.format(host=settings.host)} {MAKE_ONE}")


def give_up(error: Exception) -> NoReturn:
    """Say in words why it cannot start, and end."""
    print(f"The app cannot start: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(CANNOT_START)


def listen(host: str, port: int, named: str = "PORT") -> socket.socket:
    """Return a listening socket; an address that cannot be had is told in words, with the setting it is named by."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is taken; choose another with LANGSERVE_VLLM_{named}.") from error
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}.") from error


if __name__ == "__main__":
    main()
