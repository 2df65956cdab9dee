"""The launcher's settings: the only place under ``vllm_launcher/`` that reads the environment.

Every field is the variable ``LANGSERVE_VLLM_<FIELD>``, but for those that name another.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from platformdirs import user_cache_path, user_data_path
from pydantic import AliasChoices, ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from vllm_launcher.processes.process import Launch

PREFIX = "LANGSERVE_VLLM_"
OTHER_PYTHONS = frozenset({
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV",
})  # fmt: skip
LAUNCHERS_OWN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What the app has no use for."""


class Settings(BaseSettings):
    """Everything the launcher can be told from outside, besides its command line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    cache: Path = user_cache_path("langserve-vllm")
    """Engines and weights. Can be removed at any time while nothing runs: everything in it can be made again."""
    run: Path | None = None
    """Control socket, server records and logs of one running launcher; ``<cache>/run`` if not set."""
    offline: bool = Field(default=False, validation_alias=AliasChoices("LANGSERVE_VLLM_OFFLINE", "HF_HUB_OFFLINE"))
    """Never reach for the network: what is not in the cache is an error."""
    memory: ByteSize | None = None
    """What servers on the processor may take in all: bytes, or for example ``6GiB``; all that is free if not set."""
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    hf_endpoint: str | None = Field(default=None, validation_alias="HF_ENDPOINT")

    @property
    def run_dir(self) -> Path:
        """What one running launcher owns."""
        return self.run or self.cache / "run"

    @property
    def engines_dir(self) -> Path:
        """One environment per engine."""
        return self.cache / "engines"

    @property
    def weights_dir(self) -> Path:
        """Checkpoints as the engines load them."""
        return self.cache / "weights"

    @property
    def downloads_dir(self) -> Path:
        """What was fetched on the way."""
        return self.cache / "downloads"

    @property
    def keys_file(self) -> Path:
        """The hashes of the API keys: where conversations are."""
        return self.sessions_file.with_name("keys.sqlite")

    @property
    def sessions_file(self) -> Path:
        """Conversations, where no database is named: with this user's data, or in a run directory that was named."""
        return (self.run or user_data_path("langserve-vllm")) / "sessions.db"

    @property
    def root(self) -> Path:
        """The checkout, in which ``app`` can be imported."""
        return Path(__file__).resolve().parent.parent

    @cached_property
    def inherited(self) -> Mapping[str, str]:
        """The launcher's own environment, of which each child gets what it needs."""
        return dict(os.environ)  # noqa: TID251 - this is the module that may

    @property
    def app_environment(self) -> dict[str, str]:
        """What the app takes over."""
        return {name: value for name, value in self.inherited.items() if name not in LAUNCHERS_OWN}

    def launch(self, *argv: str) -> Launch:
        """A tool's command, in the user's own environment (pip's settings, proxies) without other Pythons' paths."""
        env = {name: value for name, value in self.inherited.items() if name not in OTHER_PYTHONS}
        env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
        return Launch(argv=argv, env=env)

    def read_secret(self, name: str) -> str | None:
        """The variable that a registry entry names for its key; None where unset or empty."""
        return self.inherited.get(name) or None
