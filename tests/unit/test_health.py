"""Health without a network: reading metrics, judging progress, waiting for work or an exit."""

import asyncio

import pytest

from tests.unit.fakes import FakeProcess
from vllm_launcher.errors import NotReady, ServerExited
from vllm_launcher.keeping.health import until_exit
from vllm_launcher.keeping.metrics import Sample, read_metrics
from vllm_launcher.keeping.stall import Patience, StallWatch

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2"} 1.0
vllm:num_requests_waiting{engine="0",model_name="smollm2"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2",reason="capacity"} 7.0
vllm:prompt_tokens_total{engine="0",model_name="smollm2"} 37.0
vllm:prompt_tokens_created{engine="0",model_name="smollm2"} 1.795364192463164e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="smollm2",source="local_compute"} 37.0
vllm:generation_tokens_total{engine="0",model_name="smollm2"} 148.0
vllm:generation_tokens_total{engine="1",model_name="smollm2"} 2.0
vllm:iteration_tokens_total_count{engine="0",model_name="smollm2"} 148.0
vllm:iteration_tokens_total_sum{engine="0",model_name="smollm2"} 580.0
"""


def test_metrics_become_a_sample() -> None:
    """Engines are added up; names that only begin the same are not taken."""
    moved = 37.0 + 150.0 + 148.0
    assert read_metrics(METRICS) == Sample(busy=True, moved=moved, requests=1, tokens=150.0, handled=moved)


OMNI = """\
vllm_omni:num_requests_running{model_name="m"} 1.0
vllm_omni:num_requests_waiting{model_name="m"} 1.0
vllm_omni:requests_success_total{finished_reason="stop",model_name="m"} 3.0
vllm_omni:prompt_tokens_total{model_name="m"} 0.0
vllm_omni:generation_tokens_total{model_name="m"} 0.0
"""


def test_an_image_server_counts_pictures() -> None:
    """No token moves while it draws, and a picture may take minutes: that is no stall yet."""
    sample = read_metrics(OMNI)
    assert (sample.requests, sample.moved, sample.slow) == (2, 3.0, True)
    watch = StallWatch(Patience(stalled=10.0, slow=100.0), 0.0)
    watch.observe(sample, 0.0)
    assert watch.observe(sample, 99.0) == "fine"
    assert watch.observe(sample, 100.0) == "stalled"


def test_the_cache_in_use_is_told() -> None:
    """As vLLM gives it: a part of one."""
    assert read_metrics('vllm:kv_cache_usage_perc{engine="0"} 0.25\n').cache_usage == 0.25


def test_waiting_requests_make_a_server_busy() -> None:
    """A queue in front of nothing is a stall too."""
    assert read_metrics("vllm:num_requests_waiting 2\n").busy


def test_metrics_of_another_program_say_nothing_about_progress() -> None:
    """No counter, no verdict."""
    assert read_metrics("python_info 1.0\n") == Sample(busy=False, moved=None)


PATIENCE = Patience(stalled=10.0, silent=5.0, idle=60.0)


def test_requests_under_way_with_counters_that_stand_still_are_a_stall() -> None:
    """Not before the time is over, and not while a counter moves."""
    watch = StallWatch(PATIENCE, 0.0)
    assert watch.observe(Sample(busy=True, moved=1.0), 1.0) == "fine"
    assert watch.observe(Sample(busy=True, moved=1.0), 10.9) == "fine"
    assert watch.observe(Sample(busy=True, moved=2.0), 11.1) == "fine"
    assert watch.observe(Sample(busy=True, moved=2.0), 21.2) == "stalled"


def test_a_request_after_a_long_idle_time_is_no_stall() -> None:
    """The counters stood still because there was nothing to do: the time counts from the request."""
    watch = StallWatch(PATIENCE, 0.0)
    watch.observe(Sample(busy=False, moved=1.0), 0.0)
    assert watch.observe(Sample(busy=False, moved=1.0), 9.0) == "fine"
    assert watch.observe(Sample(busy=True, moved=1.0), 11.0) == "fine"
    assert watch.observe(Sample(busy=True, moved=1.0), 18.9) == "fine"
    assert watch.observe(Sample(busy=True, moved=1.0), 19.0) == "stalled"


def test_an_idle_server_is_probed_after_its_time() -> None:
    """Idle is no stall."""
    watch = StallWatch(PATIENCE, 0.0)
    assert watch.observe(Sample(busy=False, moved=1.0), 0.0) == "fine"
    assert watch.observe(Sample(busy=False, moved=1.0), 59.0) == "fine"
    assert watch.observe(Sample(busy=False, moved=1.0), 60.0) == "probe"


def test_silence_is_measured_from_the_last_answer() -> None:
    """One answer in between is enough."""
    watch = StallWatch(PATIENCE, 0.0)
    assert watch.observe(None, 4.0) == "fine"
    watch.observe(Sample(busy=False, moved=None), 4.5)
    assert watch.observe(None, 9.0) == "fine"
    assert watch.observe(None, 9.5) == "silent"


async def test_work_is_given_up_when_the_process_ends() -> None:
    """At once, with the exit code, and the work is cancelled."""
    process = FakeProcess(1)
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.create_task(until_exit(work(), process))
    await asyncio.sleep(0)
    process.exits(0)
    with pytest.raises(ServerExited) as caught:
        await waiting
    assert caught.value.code == 0
    assert cancelled.is_set()


async def test_the_exit_explains_work_that_failed_just_before() -> None:
    """A first request that killed the engine is told as the engine's end."""
    process = FakeProcess(1)

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.01, process.exits, 134)
        raise NotReady("The connection broke.")

    with pytest.raises(ServerExited):
        await until_exit(work(), process, dying=5.0)


async def test_work_that_fails_beside_a_living_process_is_the_error() -> None:
    """After the time that a dying process is given."""

    async def work() -> None:
        raise NotReady("It answers for another model.")

    with pytest.raises(NotReady):
        await until_exit(work(), FakeProcess(1), dying=0.01)


async def test_work_that_succeeds_is_returned() -> None:
    """With and without a process beside it."""

    async def work() -> int:
        return 42

    assert await until_exit(work(), FakeProcess(1)) == 42
    assert await until_exit(work(), None) == 42
