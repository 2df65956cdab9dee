"""What is fetched from the hub, and what its client's errors mean."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.unit.fetching import FakeRun, OnLine, tools
from vllm_launcher.fetching.hub import Failure, Told, fetch_from_hub, read
from vllm_launcher.fetching.hub_download import Wanted, choose, compare, translate
from vllm_launcher.fetching.weights import Tools
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import HubSource

SOURCE = HubSource.model_validate({"type": "hub", "repo": "org/model", "revision": "v1"})


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An error of the client's after an answer of the hub."""
    return kind("said so", response=httpx2.Response(status, request=httpx2.Request("GET", "https://hub/x")))


@pytest.mark.parametrize(
    ("error", "said", "permanent"),
    [
        (answer(GatedRepoError, 403), "org/model@v1 is gated. Accept its terms", True),
        (answer(RevisionNotFoundError, 404), "org/model has no revision v1. Correct source.revision.", True),
        (answer(RepositoryNotFoundError, 404), "There is no repository org/model, or it is private. Correct", True),
        (answer(HfHubHTTPError, 401), "The hub refuses the token for org/model@v1. Set HF_TOKEN", True),
        (answer(HfHubHTTPError, 503), "org/model@v1 could not be downloaded: HfHubHTTPError: said so", False),
        (LocalEntryNotFoundError("x"), "org/model@v1: the hub cannot be reached.", False),
        (EntryNotFoundError("x"), "org/model@v1 lacks a file that was asked for. Correct source.file.", True),
        (httpx2.ConnectError("no route"), "could not be downloaded: ConnectError: no route The next start", False),
    ],
)
def test_an_error_of_the_hub_says_what_to_do(error: Exception, said: str, permanent: bool) -> None:  # noqa: FBT001
    """And whether trying again can help."""
    told = translate(error, SOURCE)
    assert said in str(told)
    assert told.permanent is permanent


def test_weights_that_come_twice_are_fetched_once() -> None:
    """safetensors, where the same folder has them; nothing of other frameworks."""
    names = [
        "config.json", "model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "consolidated.00.pt",
        "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "original/params.json", "text/model.bin",
    ]  # fmt: skip
    assert choose(names, None) == ["config.json", "model.safetensors", "text/model.bin"]


def test_weights_that_come_in_one_form_alone_are_fetched() -> None:
    """Whatever that is."""
    assert choose(["params.json", "consolidated.safetensors"], None) == ["params.json", "consolidated.safetensors"]
    assert choose(["config.json", "pytorch_model.bin"], None) == ["config.json", "pytorch_model.bin"]


def test_one_file_is_fetched_with_what_stands_beside_it() -> None:
    """And none of the other quantizations."""
    names = ["config.json", "a-Q4.gguf", "a-Q8.gguf", "tokenizer.model", "README.md"]
    assert choose(names, "a-Q4.gguf") == ["config.json", "a-Q4.gguf", "tokenizer.model"]


@pytest.mark.parametrize("content", [None, b"12"])
def test_a_download_that_lacks_something_is_not_whole(tmp_path: Path, content: bytes | None) -> None:
    """Without a network the client is content with what it finds in the folder."""
    wanted = Wanted("0" * 40, {"config.json": 2, "w": 4})
    (tmp_path / "config.json").write_bytes(b"{}")
    if content is not None:
        (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match=r"^w of org/model did not arrive whole"):
        compare(wanted, tmp_path, SOURCE)
    (tmp_path / "w").write_bytes(b"1234")
    compare(wanted, tmp_path, SOURCE)


def test_a_line_of_somebody_else_says_nothing() -> None:
    """The client warns on standard error, which comes with the rest."""
    assert read("Returning existing local_dir as remote repo cannot be accessed") is None
    assert read('{"other": 1}') is None
    assert read(Told(done=1, total=2).model_dump_json(exclude_defaults=True)) == Told(done=1, total=2)


async def test_progress_and_failure_come_out_of_the_process_that_downloads(tmp_path: Path) -> None:
    """With its words and its hint."""
    failure = Failure(reason="it is gated.", hint="Accept its terms.", permanent=True)

    async def play(_launch: Launch, say: OnLine) -> int:
        say("a warning")
        say(Told(done=1, total=2).model_dump_json(exclude_defaults=True))
        say(Told(failure=failure).model_dump_json(exclude_defaults=True))
        return 1

    reports: list[Progress] = []
    with pytest.raises(WeightsError, match=r"^it is gated\. Accept its terms\.$") as caught:
        await fetch_from_hub(SOURCE, tmp_path, tools(tmp_path, FakeRun(play), reports))
    assert caught.value.permanent
    assert reports[-1] == Progress(phase="downloading weights", done=1, total=2, unit="bytes")


async def test_a_download_that_dies_without_a_word_is_tried_again(tmp_path: Path) -> None:
    """Somebody killed it."""

    async def play(_launch: Launch, _say: OnLine) -> int:
        return 137

    with pytest.raises(WeightsError, match="ended with code 137") as caught:
        await fetch_from_hub(SOURCE, tmp_path, tools(tmp_path, FakeRun(play)))
    assert not caught.value.permanent


async def test_offline_nothing_is_asked_for(tmp_path: Path) -> None:
    """What is not in the cache is an error."""

    async def play(_launch: Launch, _say: OnLine) -> int:
        raise AssertionError("a program was started")

    online = tools(tmp_path, FakeRun(play))
    settings = online.settings.model_copy(update={"offline": True})
    offline = Tools(settings=settings, run=online.run, report=online.report, python=online.python)
    with pytest.raises(WeightsError, match="told to stay offline"):
        await fetch_from_hub(SOURCE, tmp_path, offline)


async def test_the_token_goes_by_the_environment_alone(tmp_path: Path) -> None:
    """Command lines can be read by everybody on the machine."""
    launches: list[Launch] = []

    async def play(launch: Launch, _say: OnLine) -> int:
        launches.append(launch)
        return 0

    made = tools(tmp_path, FakeRun(play))
    settings = type(made.settings).model_validate({"cache": tmp_path, "hf_token": "secret"})
    await fetch_from_hub(SOURCE, tmp_path, Tools(settings, made.run, made.report, made.python))
    assert launches[0].env["HF_TOKEN"] == "secret"  # noqa: S105 - no secret of anybody's
    assert not any("secret" in argument for argument in launches[0].argv)
