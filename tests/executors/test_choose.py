"""Which executor runs a model on which machine, and what is said where none can."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace

import pytest
import torch

import service.executors
from service.errors import BadInput
from service.executors import choose
from service.executors import cuda as cuda_module
from service.executors import fused as fused_module
from service.executors.choose import given_up, make_executor
from service.executors.fused import reason_against
from service.kernels.instructions import ALL
from service.kernels.tiles import load
from service.models.config import ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from tests.executors.executors_ import CONFIGS, kernel_config, kernel_model, shared_model
from tests.models_ import random_sequences, tiny_model

NARROW = replace(kernel_config(), encoder=replace(kernel_config().encoder, embedding_size=32))
AGAINST = {
    "its embeddings have another width than its layers": NARROW,
    "its activation is gelu_tanh": kernel_config(activation="gelu_tanh"),
    "its exits have full rank": kernel_config(exits=ExitConfig(form="full", reach=0)),
    "it has the head of a token classifier, and no exits": kernel_config(exits=ExitConfig(form="tags", reach=0)),
    "its hidden_size is 48, not a multiple of 32": kernel_config(width=48, num_heads=3),
    "its intermediate_size is 100, not a multiple of 32": kernel_config(intermediate_size=100),
    "its exits.rank is 48, not a multiple of 32": kernel_config(exits=ExitConfig(rank=48)),
    "its heads have 8 dimensions, not a multiple of 16": kernel_config(num_heads=8),
}


INSTRUCTIONS = {one.name: one for one in ALL}


def fake_processor(monkeypatch: pytest.MonkeyPatch, fastest: str, machine: str = "x86_64") -> None:
    """A processor with these instructions and all that are slower, as far as the choice goes."""
    load()  # what really runs is what this processor has
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(fused_module, "find", lambda wanted: INSTRUCTIONS[fastest if wanted == "auto" else wanted])


@pytest.fixture
def slow_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processor(monkeypatch, "portable", "aarch64")


@pytest.fixture
def fast_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processor(monkeypatch, "avx512_vnni")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a GPU; -> the types of the devices that models were put on."""
    used: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choose, "EagerExecutor", lambda _, device, *__: used.append(device.type))
    return used


def made(name: str, model: MultiExitModel | None = None, device: str = "cpu", threads: int = 1) -> dict[str, object]:
    """What the executor that was made says of itself, after a step."""
    executor = make_executor(name, model or shared_model("as shipped"), device=device, threads=threads)
    executor.run_layer(1, random_sequences((2,)), [None])
    executor.close()
    return dict(executor.describe())


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize(("name", "expected"), [("auto", "fused"), ("fused", "fused"), ("eager", "eager")])
def test_a_processor_that_multiplies_bytes_gets_the_fused_executor_unless_told_otherwise(
    name: str, expected: str
) -> None:
    assert made(name)["executor"] == expected


@pytest.mark.usefixtures("slow_processor")
@pytest.mark.parametrize(("name", "expected"), [("auto", "eager"), ("fused", "fused"), ("eager", "eager")])
def test_a_processor_without_such_an_instruction_gets_the_eager_one_unless_told_otherwise(
    name: str, expected: str
) -> None:
    assert made(name)["executor"] == expected


def told(name: str, instructions: str = "auto", config: ModelConfig | None = None) -> tuple[str, str | None]:
    """Which executor runs, and what was given up."""
    model = shared_model("as shipped") if config is None else tiny_model(config)
    executor = make_executor(name, model, device="cpu", threads=1, instructions=instructions)
    executor.close()
    return str(executor.describe()["executor"]), given_up(executor, name, instructions)


@pytest.mark.parametrize(
    ("machine", "fastest", "lacks"),
    [
        ("x86_64", "avx512_vnni", ""),
        ("x86_64", "avx_vnni", "avx512_vnni"),
        ("x86_64", "avx2", "avx512_vnni, avx_vnni"),
        ("aarch64", "neon_i8mm", ""),
        ("arm64", "neon_dotprod", "neon_i8mm"),
    ],
)
def test_a_processor_without_the_fastest_instructions_runs_the_kernels_and_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, machine: str, fastest: str, lacks: str
) -> None:
    fake_processor(monkeypatch, fastest, machine)
    expected = f"{lacks}, since this processor ({machine}) has none of them" if lacks else None
    assert told("auto") == told("fused") == ("fused", expected)


@pytest.mark.usefixtures("slow_processor")
def test_an_arm_processor_for_which_there_is_no_tile_falls_back_to_pytorch_and_says_so() -> None:
    missed = "neon_i8mm, neon_dotprod, since this processor (aarch64) has none of them"
    assert told("auto") == ("eager", f"int8 kernels by {missed}")
    assert told("fused") == ("fused", missed)


@pytest.mark.usefixtures("fast_processor")
def test_slower_instructions_that_were_asked_for_are_named_as_the_reason() -> None:
    missed = "avx512_vnni, avx_vnni, avx2, avx2_words, since instructions portable were asked for"
    assert told("auto", "portable") == ("eager", f"int8 kernels by {missed}")
    assert told("auto", load().name)[0] == "fused"


@pytest.mark.usefixtures("fast_processor")
def test_kernels_are_given_up_for_a_model_that_they_cannot_run_and_where_pytorch_is_asked_for() -> None:
    reason, config = "its activation is gelu_tanh", AGAINST["its activation is gelu_tanh"]
    assert told("auto", config=config) == ("eager", f"int8 kernels, which cannot run this model: {reason}")
    assert told("eager") == ("eager", "int8 kernels, since executor eager was asked for")


@pytest.mark.usefixtures("cuda")
def test_on_a_gpu_no_instructions_of_the_processor_are_given_up() -> None:
    class OnGpu:
        @staticmethod
        def describe() -> dict[str, str | int]:
            return {"device": "a GPU", "executor": "eager"}

    assert given_up(OnGpu(), "auto") is None


@pytest.mark.parametrize("name", ["auto", "fused"])
def test_instructions_that_are_unknown_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="instructions 'sse9' are unknown"):
        make_executor(name, shared_model("as shipped"), device="cpu", instructions="sse9")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_there_is_nothing_against_models_of_every_family_and_form(config: ModelConfig) -> None:
    assert reason_against(config) is None


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize(("reason", "config"), AGAINST.items(), ids=AGAINST)
def test_a_model_that_the_kernels_cannot_run_is_refused_with_the_reason_and_run_eagerly_by_auto(
    reason: str, config: ModelConfig
) -> None:
    assert reason_against(config) == reason
    model = tiny_model(config)
    with pytest.raises(BadInput) as caught:
        make_executor("fused", model, device="cpu")
    assert reason in str(caught.value) and "auto or eager" in str(caught.value)
    assert made("auto", model)["executor"] == made("eager", model)["executor"] == "eager"


@pytest.mark.parametrize("name", ["", "Fused", "gpu", "int8"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_executor(name, kernel_model())
    assert repr(name) in str(caught.value) and "['auto', 'cuda', 'eager', 'fused']" in str(caught.value)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BadInput, match="tpu"):
        make_executor("auto", kernel_model(), device="tpu")


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_the_eager_executor_runs_unless_told_otherwise(cuda: list[str], device: str) -> None:
    for name in ("auto", "eager"):
        make_executor(name, shared_model("as shipped"), device=device)
    assert cuda == ["cuda", "cuda"]
    with pytest.raises(BadInput, match=r"runs on a CPU.*use device cpu"):
        make_executor("fused", shared_model("as shipped"), device=device)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_the_executor_for_gpus_may_be_asked_for(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(cuda_module, "Gpu", lambda given: given.type)
    monkeypatch.setattr(cuda_module, "CudaExecutor", lambda model, gpu: (model, gpu))
    model = shared_model("as shipped")
    assert make_executor("cuda", model, device=device) == (model, "cuda")


def test_the_executor_for_gpus_is_refused_on_a_cpu() -> None:
    with pytest.raises(BadInput, match=r"executor cuda .*needs a CUDA device, not cpu; use executor auto or eager"):
        make_executor("cuda", shared_model("as shipped"), device="cpu")


@pytest.mark.usefixtures("fast_processor", "cuda")
def test_beside_a_gpu_the_cpu_may_be_asked_for() -> None:
    assert made("auto")["executor"] == "fused"


def test_threads_are_as_many_as_asked_for_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "available_cores", lambda: 3)
    assert made("fused", threads=2)["threads"] == 2
    assert made("fused", threads=0)["threads"] == 3
    assert made("eager", threads=5)["threads"] == 5


def test_where_compiled_kernels_cannot_be_kept_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "service.executors.fused":
                raise RuntimeError("no locator available")

    monkeypatch.delattr(service.executors, "fused")
    monkeypatch.delitem(sys.modules, "service.executors.fused")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(BadInput, match=r"no locator available.*NUMBA_CACHE_DIR.*eager"):
        make_executor("auto", kernel_model(), device="cpu")
    assert made("eager")["executor"] == "eager"
