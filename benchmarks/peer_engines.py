"""Who takes part in `benchmarks.peers`, and how each is started: ours, and the peers on their own runtimes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.engines import PolicyInForce, load, policies_of, start_engine
from benchmarks.peer_graph import INPUTS, Feeds, FullDepth, feeds_of, spans_of
from service.engine.sequence import Request
from service.executors.choose import make_executor
from service.exits.operating_points import PRESETS
from service.models.batches import length_buckets
from service.models.device import use_threads
from service.models.multi_exit import MultiExitModel
from service.models.store import read_config
from service.spans.types import FloatArray, Span
from service.text.types import EncodedText

Run = Callable[[Feeds], FloatArray]  # from a padded batch to its scores, in the shape that `FullDepth` returns
Spans = list[list[list[Span]]]  # text by text, sequence by sequence
Answer = Callable[[Sequence[EncodedText], int], Spans]  # from texts, answered at once, and the most pieces of a batch


def library(name: str) -> Any:
    """Return a module that only this benchmark needs. Raises SystemExit if it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install -r benchmarks/requirements.txt") from error


def write_graphs(model: MultiExitModel, folder: Path, *, narrow: bool = False) -> None:
    """Write plain.onnx, as exported, fused.onnx, with ONNX Runtime's BERT operators, and both with byte matrices.

    narrow: weights have 7 bits, as ONNX Runtime's manual wants it without VNNI, since its products saturate there
    """
    words = {name: {0: "batch", 1: "words"} for name in ("first_piece", "last_piece", "word_mask")}
    pieces = {name: {0: "batch", 1: "pieces"} for name in ("piece_ids", "shape_ids", "attention_mask")}
    example = torch.arange(1, 7).view(2, 3)
    graph, plain = FullDepth(model, attention="eager"), folder / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing is deprecated, but ONNX Runtime only fuses the attention of its graphs
        torch.onnx.export(
            graph,
            (example, example, torch.ones_like(example), *(torch.ones(2, 2, dtype=torch.long),) * 3),
            plain,
            input_names=list(INPUTS),
            output_names=["scores"],
            dynamic_axes={**pieces, **words, "scores": {0: "batch", 1: "words", 3: "words"}},
            opset_version=17,
            dynamo=False,
        )
    encoder = model.config.encoder
    optimizer = library("onnxruntime.transformers.optimizer")
    fused = optimizer.optimize_model(
        str(plain), "bert", num_heads=encoder.num_heads, hidden_size=encoder.hidden_size, opt_level=0
    )
    is_fused = fused.get_fused_operator_statistics()["Attention"] == encoder.num_layers
    if not is_fused and not encoder.relative_bias:  # for which its operator has no room
        raise SystemExit("ONNX Runtime's optimizer did not fuse every layer's attention")
    fused.save_model_to_file(str(folder / "fused.onnx"))
    for name in ("plain", "fused"):
        _quantize(folder / f"{name}.onnx", folder / f"{name}_int8.onnx", narrow=narrow)


def _quantize(source: Path, target: Path, *, narrow: bool) -> None:
    """Turn matrices to bytes, with a scale per column; embeddings and the convolution stay, as bytes are no faster."""
    quantization, float32 = library("onnxruntime.quantization"), library("onnx").TensorProto.FLOAT
    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        reduce_range=narrow,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": float32},
    )


@dataclass(frozen=True, slots=True)
class Setup:
    """What a competitor is started with; `graphs` is the folder into which `write_graphs` wrote.

    instructions  that ours uses; hides_faster: whether faster ones are hidden from the whole process, a peer's too
    """

    folder: Path
    executor: str
    threads: int
    graphs: Path
    instructions: str = "auto"
    hides_faster: bool = False


Start = Callable[[Setup], AbstractContextManager[tuple[Answer, str]]]  # yields what answers, and its dtype


@contextmanager
def ours(setup: Setup, policy: str) -> Iterator[tuple[Answer, str]]:
    """Start our engine under one policy; it forms its own steps, and ignores the most pieces of a batch."""
    stored = load(str(setup.folder), setup.folder)
    executor = make_executor(
        setup.executor, stored.model, device="cpu", threads=setup.threads, instructions=setup.instructions
    )
    engine = start_engine(executor, PolicyInForce(policies_of(stored)[1][policy]))

    def answer(texts: Sequence[EncodedText], _: int) -> Spans:
        now = time.monotonic()
        requests = [
            Request((text,), deadline=now + 600 + 1e-6 * index, submitted=now) for index, text in enumerate(texts)
        ]
        for request in requests:
            engine.submit(request)
        for request in requests:
            request.future.result()
        return [[sequence.spans for sequence in request.sequences] for request in requests]

    try:
        yield answer, str(executor.describe()["dtype"])
    finally:
        engine.close()
        executor.close()


@contextmanager
def peer(setup: Setup, make_run: Callable[[Setup], Run], dtype: str) -> Iterator[tuple[Answer, str]]:
    """Start a peer, which answers in padded batches of similar length, one after another."""
    run, nested = make_run(setup), read_config(setup.folder).nested

    def answer(texts: Sequence[EncodedText], max_pieces: int) -> Spans:
        sequences = [sequence for text in texts for sequence in text.sequences]
        found: list[list[Span]] = [[] for _ in sequences]
        for batch in length_buckets(sequences, max_pieces):
            inputs = [sequences[index] for index in batch]
            for index, spans in zip(batch, spans_of(run(feeds_of(inputs)), inputs, nested=nested), strict=True):
                found[index] = spans
        in_order = iter(found)
        return [[next(in_order) for _ in text.sequences] for text in texts]

    yield answer, dtype


def transformers(setup: Setup, dtype: torch.dtype) -> Run:
    """Return a run by PyTorch, operator by operator; the exit computes in float32 in any case, as ours does."""
    graph = FullDepth(load(str(setup.folder), setup.folder).model)
    parts: list[nn.Module] = [graph.encoder, graph.shapes]
    for part in parts:
        part.to(dtype)
    use_threads(setup.threads)

    @torch.inference_mode()
    def run(feeds: Feeds) -> FloatArray:
        scores: FloatArray = graph(**{name: torch.tensor(array) for name, array in feeds.items()}).numpy()
        return scores

    return run


def onnx_runtime(setup: Setup, graph: str) -> Run:
    """Return a run by one session of ONNX Runtime with all its optimisations, and defaults for other settings."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    session = onnxruntime.InferenceSession(setup.graphs / graph, options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> FloatArray:
        scores: FloatArray = session.run(None, feeds)[0]
        return scores

    return run


def open_vino(setup: Setup, precision: str, quantized: bool = False) -> Run:
    """Return a run by one stream of OpenVINO over all threads; it follows the hint `precision` if the CPU can."""
    openvino = library("openvino")
    model = openvino.Core().read_model(setup.graphs / "plain.onnx")
    settings: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": setup.threads,
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128 if quantized else 0,  # inputs that share a scale, 0 for no bytes
    }
    if quantized:
        _compress(model)
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> FloatArray:
        scores: FloatArray = request.infer(feeds, share_inputs=True, share_outputs=True)[0]
        return scores

    return run


def _compress(model: Any) -> None:
    """Turn matrices to bytes, with a scale for each output column, as NNCF's compress_weights does, but without NNCF.

    OpenVINO turns the inputs of such a matrix to bytes at run time and multiplies bytes. It also runs ONNX Runtime's
    byte graph, but computes it in float32; fixed scales for matrices and inputs (QDQ) are no faster and lose entities.
    """
    operators = library("openvino.opset13")
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or product.input_value(1).get_node().get_type_name() != "Constant":
            continue
        given, matrix = product.get_attributes(), product.input_value(1).get_node().data
        by_output = matrix if given["transpose_b"] else matrix.T  # (out, in)
        scales = np.abs(by_output).max(axis=1, keepdims=True) / 127
        as_bytes = operators.constant(np.rint(by_output / scales).astype(np.int8))
        weights = operators.multiply(operators.convert(as_bytes, "f32"), operators.constant(scales))
        cheaper = operators.matmul(product.input_value(0), weights, given["transpose_a"], True)
        product.output(0).replace(cheaper.output(0))


FULL_DEPTH = "ours_full_depth"
OURS: Mapping[str, Start] = {f"ours_{name}": partial(ours, policy=name) for name in ("full_depth", *PRESETS)}
PEERS: Mapping[str, Start] = {
    "transformers": partial(peer, make_run=partial(transformers, dtype=torch.float32), dtype="float32"),
    "transformers_bf16": partial(peer, make_run=partial(transformers, dtype=torch.bfloat16), dtype="bfloat16"),
    "onnxruntime": partial(peer, make_run=partial(onnx_runtime, graph="plain.onnx"), dtype="float32"),
    "onnxruntime_fused": partial(peer, make_run=partial(onnx_runtime, graph="fused.onnx"), dtype="float32"),
    "onnxruntime_int8": partial(peer, make_run=partial(onnx_runtime, graph="plain_int8.onnx"), dtype="int8"),
    "onnxruntime_fused_int8": partial(peer, make_run=partial(onnx_runtime, graph="fused_int8.onnx"), dtype="int8"),
    "openvino": partial(peer, make_run=partial(open_vino, precision="f32"), dtype="float32"),
    "openvino_bf16": partial(peer, make_run=partial(open_vino, precision="bf16"), dtype="bfloat16"),
    "openvino_int8": partial(peer, make_run=partial(open_vino, precision="f32", quantized=True), dtype="int8"),
}
