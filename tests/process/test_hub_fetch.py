"""Weights come from the hub by its own client, in a process that is killed and goes on; the hub here is a fake one."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.process.fake_hub import GATED, MISSING, OLD, REPO, FakeHub
from tests.processes import eventually
from vllm_launcher.fetching.weights import Tools, fetch_weights, is_whole
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Finished, Launch
from vllm_launcher.processes.process import run as run_process
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import ModelSpec
from vllm_launcher.settings import Settings

DEADLINE = 90.0
"""Seconds for one fetch on a loaded machine: a new Python imports the hub's client."""
BIG = bytes(range(256)) * 200_000
"""51 MB: several of the blocks in which the client writes to the disk."""
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "pytorch_model.bin": b"the same once more"}


@dataclasses.dataclass
class Fetcher:
    """Fetches from a fake hub into a cache of its own."""

    hub: FakeHub
    folder: Path
    env: Mapping[str, str]
    reports: list[Progress] = dataclasses.field(default_factory=list[Progress])
    runs: int = 0

    async def fetch(self, repo: str = REPO, **source: str) -> Path:
        """The checkpoint."""
        entry = {"id": "tiny", "source": {"type": "hub", "repo": repo, **source}}
        tools = Tools(Settings(cache=self.folder / "cache"), self._run, self.reports.append, Path("unused"))
        async with asyncio.timeout(DEADLINE):
            return (await fetch_weights(ModelSpec.model_validate(entry), tools, dequantize=False)).path

    async def _run(self, launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
        self.runs += 1
        here = dataclasses.replace(launch, env={**launch.env, **self.env})
        return await run_process(here, log=self.folder / "download.log", on_line=on_line)


@pytest.fixture
async def fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    """With an empty cache."""
    hub = FakeHub(dict(FILES))
    async with hub.serve() as endpoint:
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        yield Fetcher(hub, tmp_path, env)


async def test_a_repository_is_fetched_once_and_without_what_comes_twice(fetcher: Fetcher) -> None:
    """The second call asks nobody; pickled weights stay where they are beside safetensors."""
    first = await fetcher.fetch()
    assert first == await fetcher.fetch()
    assert fetcher.runs == 1
    assert {name for name, _ in fetcher.hub.asked} == {"config.json", "model.safetensors"}
    assert (first / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert is_whole(first)


async def test_a_download_tells_its_bytes(fetcher: Fetcher) -> None:
    """Of all files together."""
    await fetcher.fetch()
    told = [report for report in fetcher.reports if report.unit == "bytes"]
    assert {report.phase for report in told} == {"downloading weights"}
    assert told[-1].done == len(FILES["config.json"]) + len(FILES["model.safetensors"])


async def test_one_file_of_a_repository_is_fetched_with_its_configuration(fetcher: Fetcher) -> None:
    """Not the other weights."""
    fetcher.hub.files["tiny-Q4.gguf"] = b"GGUF"
    checkpoint = await fetcher.fetch(file="tiny-Q4.gguf")
    assert checkpoint.name == "tiny-Q4.gguf"
    assert {name for name, _ in fetcher.hub.asked} == {"config.json", "tiny-Q4.gguf"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"repo": GATED}, "org/gated is gated. Accept its terms on its page"),
        ({"repo": MISSING}, "There is no repository org/missing, or it is private. Correct source.repo"),
        ({"revision": OLD}, "org/tiny has no revision nowhere. Correct source.revision."),
        ({"file": "other.gguf"}, "org/tiny has no file other.gguf. Check source.file"),
    ],
)
async def test_what_the_hub_refuses_is_told_with_what_to_do(
    fetcher: Fetcher, source: dict[str, str], said: str
) -> None:
    """It stays so until somebody mends it, and nothing is there that could be taken for a checkpoint."""
    with pytest.raises(WeightsError) as caught:
        await fetcher.fetch(**source)
    assert said in str(caught.value)
    assert caught.value.permanent
    assert not list(fetcher.folder.glob("cache/weights/*/.complete"))


async def test_a_hub_that_cannot_be_reached_may_be_back_later(fetcher: Fetcher) -> None:
    """The launcher tries again."""
    fetcher.env = {**fetcher.env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    with pytest.raises(WeightsError, match="org/tiny") as caught:
        await fetcher.fetch()
    assert not caught.value.permanent


async def test_a_connection_that_breaks_is_taken_up_where_it_broke(fetcher: Fetcher) -> None:
    """What has come is not asked for again."""
    fetcher.hub.files["model.safetensors"] = BIG
    fetcher.hub.cut = "model.safetensors"
    checkpoint = await fetcher.fetch()
    assert (checkpoint / "model.safetensors").read_bytes() == BIG
    first, *later = [part for name, part in fetcher.hub.asked if name == "model.safetensors"]
    assert first is None
    assert later
    assert all(part and part != "bytes=0-" for part in later)


async def test_a_killed_download_goes_on_with_the_files_that_are_missing(fetcher: Fetcher) -> None:
    """It leaves no checkpoint and no process; what it had begun takes no room for ever."""
    fetcher.hub.files["model.safetensors"] = BIG
    fetcher.hub.stall = "model.safetensors"
    fetching = asyncio.create_task(fetcher.fetch())
    await until_half_way(fetcher)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert not list(fetcher.folder.glob("cache/weights/*/.complete"))
    assert halves(fetcher)

    fetcher.hub.stall = None
    fetcher.hub.asked.clear()
    checkpoint = await fetcher.fetch()
    assert fetcher.hub.asked == [("model.safetensors", None)]
    assert (checkpoint / "model.safetensors").read_bytes() == BIG
    assert is_whole(checkpoint)
    assert not halves(fetcher)


def halves(fetcher: Fetcher) -> list[Path]:
    """Begun files on the disk."""
    return [path for path in fetcher.folder.rglob("*.incomplete") if path.stat().st_size]


async def until_half_way(fetcher: Fetcher) -> None:
    """The small file is there, and something of the large one."""

    async def is_there() -> bool:
        return bool(halves(fetcher)) and any(fetcher.folder.glob("cache/weights/*.partial/config.json"))

    await asyncio.wait_for(fetcher.hub.stalled.wait(), DEADLINE)
    await eventually(is_there, bool, within=DEADLINE)
