"""Our engine beside full-depth peers: Transformers, ONNX Runtime and OpenVINO, side by side in one run.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.peers conll2003-minilm DATA/conll2003/test.conll --f1

A peer is the same encoder run to full depth, with the last exit in its graph and our decoding behind it; its time runs
from word pieces to spans, as ours does. Ours goes through the real engine. Before anything is measured every
competitor answers some texts: a float32 peer must give the reference executor's spans, the others nearly so.

The same sentences make three workloads: as they are, joined to sentences of 128 words, and joined to documents of 40
sentences, which the service splits again. Each is answered a text at a time (by a peer with the sequences of that text
as padded batches), and all at once: by the engine as a burst, by a peer in padded batches of like length. How many
pieces a peer's batches hold is chosen for each of the six by a trial.

Every competitor has a process of its own, as it would in service (some 0.5 GB each), and the same number of threads.
Thread pools spin for a while behind their work, as their users have them, so competitors take turns by whole rounds,
not text by text, and a pause in front of each turn lets the last one's threads go to sleep. An untimed round and the
trials warm up: what OpenVINO compiles for each new shape of its input is not in the figures, though a service meets it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines import PolicyInForce, add_executor, draw_texts, load, policies_of, start_engine
from service.data.readers import Example, read_examples
from service.engine.sequence import Request
from service.evaluation.predict import decode_every_exit
from service.executors.choose import make_executor
from service.exits.operating_points import PRESETS
from service.models.backbones.bert import FAMILY
from service.models.batches import length_buckets
from service.models.biaffine import BiaffineExit
from service.models.device import available_cores, use_threads
from service.models.multi_exit import MultiExitModel
from service.models.store import StoredModel, read_config
from service.spans.decode import decode
from service.spans.score import Score, keys, score
from service.spans.types import FloatArray, IntArray, Span
from service.text.types import EncodedText, SequenceInput

LONG_SENTENCE_WORDS = 128
DOCUMENT_SENTENCES = 40
BUDGETS = (256, 512, 1024)  # pieces of a padded batch; every peer is slower with fewer or more
TEXTS_OF_A_TRIAL = 10  # of those answered one at a time
TRIES = 2
TEXTS_OF_A_CHECK = 40
LEAST_AGREEMENT = 0.9
PAUSE_S = 0.1  # all were seen to spin for less than 50 ms

Feeds = dict[str, IntArray]
Run = Callable[[Feeds], FloatArray]  # a padded batch -> its scores, as `FullDepth` gives them
Spans = list[list[list[Span]]]  # text by text, sequence by sequence
Answer = Callable[[Sequence[EncodedText], int], Spans]  # texts at once, in batches of so many pieces
INPUTS = ("piece_ids", "shape_ids", "attention_mask", "first_piece", "last_piece", "word_mask")


# The graph that all peers run


class FullDepth(nn.Module):
    """Transformers' BertModel with our weights, and our last exit over a padded batch."""

    def __init__(self, model: MultiExitModel, attention: str = "sdpa") -> None:
        """attention: how Transformers computes it, sdpa (its default) or eager."""
        from transformers import BertConfig, BertModel  # slow to import

        super().__init__()
        encoder, last_exit, shapes = model.config.encoder, model.exits[-1], model.encoder.embeddings.shapes
        is_known = (encoder.family, encoder.activation, model.config.exits.end_piece) == ("bert", "gelu", "last")
        if not (is_known and isinstance(last_exit, BiaffineExit) and last_exit.neighbours and shapes is not None):
            raise SystemExit("peers are written for BERT with word shapes and contextual exits, as the shipped models")
        config = BertConfig(
            vocab_size=encoder.vocab_size,
            hidden_size=encoder.hidden_size,
            num_hidden_layers=encoder.num_layers,
            num_attention_heads=encoder.num_heads,
            intermediate_size=encoder.intermediate_size,
            max_position_embeddings=encoder.max_positions,
            type_vocab_size=encoder.type_vocab_size,
            layer_norm_eps=encoder.layer_norm_eps,
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.encoder.set_attn_implementation(attention)
        self.encoder.load_state_dict(_bert_weights(model))
        self.shapes = shapes
        neighbours = last_exit.neighbours.weight.unflatten(1, (-1, last_exit.bilinear.shape[0]))
        self.starts = _Side(last_exit.start_projection, last_exit.start_context, neighbours[0], last_exit.start_linear)
        self.ends = _Side(last_exit.end_projection, last_exit.end_context, neighbours[1], last_exit.end_linear)
        self.bilinear = last_exit.bilinear  # (rank, labels, rank)
        self.bias = last_exit.bias  # (widths, labels)
        self.eval()

    def forward(
        self,
        piece_ids: Tensor,
        shape_ids: Tensor,
        attention_mask: Tensor,
        first_piece: Tensor,
        last_piece: Tensor,
        word_mask: Tensor,
    ) -> Tensor:
        """(batch, pieces) three times, (batch, words) three times -> (batch, words, labels, words)

        Scores of the labels from 1 relative to label 0: first word, label, last word, as the matrix product leaves
        them.
        """
        embedded = self.encoder.embeddings.word_embeddings(piece_ids) + self.shapes(shape_ids)
        hidden = self.encoder(inputs_embeds=embedded, attention_mask=attention_mask).last_hidden_state.float()
        batch, pieces, width = hidden.shape
        flat, rows = hidden.reshape(-1, width), torch.arange(batch)[:, None] * pieces
        first_words, last_words = flat[first_piece + rows], flat[last_piece + rows]  # (batch, words, hidden)
        real = word_mask[..., None].float()
        means = (first_words * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        starts, start_scores = self.starts(first_words, means, real)
        ends, end_scores = self.ends(last_words, means, real)
        rank, labels, _ = self.bilinear.shape
        words = first_words.shape[1]
        half = starts @ self.bilinear.reshape(rank, labels * rank)  # (batch, words, labels * rank)
        table = half.reshape(-1, words * labels, rank) @ ends.transpose(1, 2)
        table = table.reshape(-1, words, labels, words)
        places = torch.arange(words)
        widths = (places - places[:, None]).clamp(0, self.bias.shape[0] - 1)  # (words, words), of the span but one
        scores: Tensor = table + start_scores[..., None] + end_scores.transpose(1, 2)[:, None]
        return scores + self.bias[widths].transpose(1, 2)


class _Side(nn.Module):
    """What the contextual exit makes of words as the first, or as the last, of a span."""

    def __init__(
        self, projection: nn.Linear | None, context: nn.Linear | None, neighbours: Tensor, linear: nn.Linear
    ) -> None:
        """neighbours: (places, rank, rank) from the leftmost, input by output"""
        super().__init__()
        self.projection, self.context, self.linear = projection, context, linear
        self.kernel = nn.Parameter(neighbours.permute(2, 1, 0).contiguous(), requires_grad=False)

    def forward(self, words: Tensor, means: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, words, hidden), their means, (batch, words, 1) -> (batch, words, rank), (batch, words, labels)"""
        if self.projection is None or self.context is None:
            raise TypeError("not an exit of the contextual form")
        projected = self.projection(words)
        padding = self.kernel.shape[2] // 2
        beside = functional.conv1d((projected * real).transpose(1, 2), self.kernel, padding=padding).transpose(1, 2)
        return functional.gelu(projected + self.context(means) + beside), self.linear(words)


def _bert_weights(model: MultiExitModel) -> dict[str, Tensor]:
    """Our encoder's weights under BertModel's names: the reverse of `checkpoint.encoder_weights`."""
    ours, layers = model.encoder.state_dict(), range(model.config.num_layers)
    names = {f"embeddings.{module}": name for module, name in FAMILY.embeddings.items()}
    for index in layers:
        prefix = FAMILY.layers.format(index=index)
        names |= {f"layers.{index}.{module}": f"{prefix}.{name}" for module, name in FAMILY.layer.items()}
        for kind in ("weight", "bias"):
            attention = f"layers.{index}.attention"
            key, value = ours.pop(f"{attention}.key_value.{kind}").chunk(2)
            ours |= {f"{attention}.key.{kind}": key, f"{attention}.value.{kind}": value}
    parts = ((*name.rsplit(".", 1), tensor) for name, tensor in ours.items())
    return {f"{names[module]}.{kind}": tensor for module, kind, tensor in parts if module in names}


def feeds_of(sequences: Sequence[SequenceInput]) -> Feeds:
    """A padded batch, as `FullDepth` reads it."""
    return {
        "piece_ids": _pad([sequence.piece_ids for sequence in sequences]),
        "shape_ids": _pad([sequence.shape_ids for sequence in sequences]),
        "attention_mask": _pad([np.ones(sequence.num_pieces, dtype=np.int64) for sequence in sequences]),
        "first_piece": _pad([sequence.first_piece for sequence in sequences]),
        "last_piece": _pad([sequence.last_piece for sequence in sequences]),
        "word_mask": _pad([np.ones(sequence.num_words, dtype=np.int64) for sequence in sequences]),
    }


def _pad(rows: Sequence[IntArray]) -> IntArray:
    if len(rows) == 1:
        return rows[0][None]
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def spans_of(scores: FloatArray, sequences: Sequence[SequenceInput], *, nested: bool) -> list[list[Span]]:
    """The decoded spans of every sequence of a padded batch, from its (batch, words, labels, words) scores."""
    batch, words, _, _ = scores.shape
    num_words = np.array([sequence.num_words for sequence in sequences])
    positive = np.unravel_index(np.flatnonzero(scores > 0), scores.shape)  # a candidate has a label that beats label 0
    owner, first, last = positive[0], positive[1], positive[3]
    is_valid = (first <= last) & (last < num_words[owner])
    cells = np.unique(((owner * words + first) * words + last)[is_valid])
    owner, first, last = np.unravel_index(cells, (batch, words, words))
    labels = scores[owner, first, :, last]  # (candidates, labels)
    best = labels.max(axis=1)
    log_probs = -np.log(np.exp(labels - best[:, None]).sum(axis=1) + np.exp(-best))  # label 0 scores 0
    candidates = np.stack([first, last, labels.argmax(axis=1) + 1, log_probs], axis=1, dtype=np.float32)
    bounds = np.searchsorted(owner, range(batch + 1)).tolist()
    return [decode(candidates[start:end], nested=nested) for start, end in pairwise(bounds)]


# What peers load: the graph as files


def library(name: str) -> Any:
    """A module that only this benchmark needs."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install -r benchmarks/requirements.txt") from error


def write_graphs(model: MultiExitModel, folder: Path) -> None:
    """plain.onnx, as exported; fused.onnx, with ONNX Runtime's operators for BERT; and both with byte matrices."""
    words = {name: {0: "batch", 1: "words"} for name in ("first_piece", "last_piece", "word_mask")}
    pieces = {name: {0: "batch", 1: "pieces"} for name in ("piece_ids", "shape_ids", "attention_mask")}
    example = torch.arange(1, 7).view(2, 3)
    graph, plain = FullDepth(model, attention="eager"), folder / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the exporter by tracing is deprecated; ONNX Runtime fuses attention of no other
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
    if not fused.get_fused_operator_statistics()["Attention"] == encoder.num_layers:
        raise SystemExit("ONNX Runtime's optimizer did not fuse every layer's attention")
    fused.save_model_to_file(str(folder / "fused.onnx"))
    for name in ("plain", "fused"):
        _quantize(folder / f"{name}.onnx", folder / f"{name}_int8.onnx")


def _quantize(source: Path, target: Path) -> None:
    """Matrices to bytes, a scale for each column; embeddings and the convolution stay, where bytes are no faster."""
    quantization, float32 = library("onnxruntime.quantization"), library("onnx").TensorProto.FLOAT
    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": float32},
    )


# Competitors: what follows runs in a competitor's process


@dataclass(frozen=True, slots=True)
class Setup:
    """What a competitor is started with; `graphs` is where `write_graphs` has written."""

    folder: Path
    executor: str
    threads: int
    graphs: Path


Start = Callable[[Setup], AbstractContextManager[tuple[Answer, str]]]  # -> what answers, and its dtype


@contextmanager
def ours(setup: Setup, policy: str) -> Iterator[tuple[Answer, str]]:
    """The engine under one policy; it forms its steps itself."""
    stored = load(str(setup.folder), setup.folder)
    executor = make_executor(setup.executor, stored.model, device="cpu", threads=setup.threads)
    engine = start_engine(executor, PolicyInForce(policies_of(stored)[1][policy]))

    def answer(texts: Sequence[EncodedText], _: int) -> Spans:
        now = time.monotonic()
        requests = [
            Request((text,), deadline=now + 600 + 1e-6 * index, submitted=now) for index, text in enumerate(texts)
        ]
        for request in requests:
            engine.submit(request)
        return [[sequence.spans for sequence in request.future.result().sequences] for request in requests]

    try:
        yield answer, str(executor.describe()["dtype"])
    finally:
        engine.close()
        executor.close()


@contextmanager
def peer(setup: Setup, make_run: Callable[[Setup], Run], dtype: str) -> Iterator[tuple[Answer, str]]:
    """A peer answers in padded batches of like length, one after another."""
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
    """PyTorch, operator by operator; the exit computes in float32 whatever the encoder's dtype is, as ours does."""
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
    """One session with all its own optimisations; its other settings are the defaults."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    session = onnxruntime.InferenceSession(setup.graphs / graph, options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> FloatArray:
        scores: FloatArray = session.run(None, feeds)[0]
        return scores

    return run


def open_vino(setup: Setup, precision: str, quantized: bool = False) -> Run:
    """One stream over all threads. `precision` is a hint that it follows where the processor can."""
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
    """Matrices to bytes, a scale for each column: what NNCF's compress_weights does, without NNCF.

    OpenVINO multiplies such a matrix by inputs that it makes bytes as they come. ONNX Runtime's byte graph it runs too,
    but multiplies it out in float32; matrices and inputs with fixed scales (QDQ) are no faster and lose the entities.
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


@dataclass(frozen=True, slots=True)
class Turn:
    """Texts for a competitor to answer, all at once or one after another, in batches of at most so many pieces."""

    texts: Sequence[EncodedText]
    max_pieces: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """seconds: of every text, or of all at once."""

    seconds: list[float]
    spans: Spans


def take(turn: Turn, answer: Answer) -> Answered:
    """Answer and take the time."""
    seconds: list[float] = []
    found: Spans = []
    for texts in [turn.texts] if turn.at_once else [[text] for text in turn.texts]:
        started = time.perf_counter()
        spans = answer(texts, turn.max_pieces)
        seconds.append(time.perf_counter() - started)
        found += spans
    return Answered(seconds, found)


def take_turns(name: str, setup: Setup, pipe: Connection) -> None:
    """Say that all is ready; take every turn that comes."""
    with {**OURS, **PEERS}[name](setup) as (answer, dtype):
        pipe.send(dtype)
        while (turn := pipe.recv()) is not None:
            pipe.send(take(turn, answer))


# The competition: what follows runs in the process that was started


class Competitor:
    """A competitor's process, asked turn by turn.

    agreement  with the reference executor at full depth, as F1
    f1         x 100, on the whole file; None where it is not wanted
    """

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self.dtype, self.is_peer = name, "", name in PEERS
        self.agreement = 0.0
        self.f1: float | None = None
        processes = multiprocessing.get_context("spawn")  # a fork would share what PyTorch's threads hold
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(target=take_turns, args=(name, setup, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Until it is ready."""
        self.dtype = self._receive()

    def take(self, turn: Turn) -> Answered:
        """Let it answer, after a pause."""
        time.sleep(PAUSE_S)
        self._pipe.send(turn)
        answered: Answered = self._receive()
        return answered

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise SystemExit(f"{self.name} ended; what it wrote above says why") from error


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of one kind."""

    name: str
    texts: Sequence[EncodedText]


def workloads_of(stored: StoredModel, file: Path, count: int) -> list[Workload]:
    """The same drawn sentences as they are, as long sentences, and as documents."""
    sentences = draw_texts(stored, file, count)
    words = [word for sentence in sentences for word in sentence.text.split(" ")]
    size = DOCUMENT_SENTENCES
    documents = [" ".join(text.text for text in sentences[at : at + size]) for at in range(0, len(sentences), size)]
    size = LONG_SENTENCE_WORDS
    long = [" ".join(words[at : at + size]) for at in range(0, len(words) - size + 1, size)]
    encoded = stored.text_encoder.encode_batch(long, split=False)
    return [
        Workload("sentences", sentences),
        Workload(f"{size} words", [text for text in encoded if len(text.sequences) == 1]),  # the others are windows
        Workload("documents", stored.text_encoder.encode_batch(documents)),
    ]


def check(competitors: Sequence[Competitor], stored: StoredModel, workloads: Sequence[Workload]) -> None:
    """See how far each agrees with the reference executor, alone and all at once; presets are meant to differ."""
    texts = [text for workload in workloads for text in workload.texts[:TEXTS_OF_A_CHECK]]
    sequences = [sequence for text in texts for sequence in text.sequences]
    reference = make_executor("eager", stored.model, device="cpu")
    spans = iter(decode_every_exit(reference, sequences)[-1])
    expected = [[next(spans) for _ in text.sequences] for text in texts]
    for competitor in competitors:
        found = [competitor.take(Turn(texts, BUDGETS[0], at_once)).spans for at_once in (False, True)]
        competitor.agreement = agreement = min(_agreement(expected, spans) for spans in found)
        least = 1.0 if competitor.dtype == "float32" else LEAST_AGREEMENT
        if agreement < least and (competitor.is_peer or competitor.name == FULL_DEPTH):
            raise SystemExit(f"{competitor.name} agrees with the reference by {agreement:.4f}; expected {least}")


def _agreement(expected: Spans, found: Spans) -> float:
    """F1 of what was found, probabilities aside."""
    ours, theirs = _keys(expected), _keys(found)
    return 2 * len(ours & theirs) / max(len(ours) + len(theirs), 1)


def _keys(spans: Spans) -> set[tuple[int, int, int, int, int]]:
    """Text, sequence, start, end and label of every span."""
    sequences = ((text, index, found) for text, of_text in enumerate(spans) for index, found in enumerate(of_text))
    return {(text, index, span.start, span.end, span.label) for text, index, found in sequences for span in found}


def measure_f1(competitor: Competitor, stored: StoredModel, examples: Sequence[Example]) -> None:
    """Strict micro-F1 on a whole file, text by text."""
    texts = stored.text_encoder.encode_batch([example.text for example in examples])
    total = Score()
    for example, text, spans in zip(examples, texts, competitor.take(Turn(texts, BUDGETS[0])).spans, strict=True):
        total += score(keys(example.entities), keys(stored.text_encoder.entities(text, spans)))
    competitor.f1 = 100 * total.f1


@dataclass(slots=True)
class Row:
    """One competitor on one workload.

    agreement, f1              see Competitor
    max_pieces_alone, ..._at_once  of a peer's batches
    p50_ms, mean_ms, p99_ms    of a text answered alone, over texts; of each text the median over rounds
    p50_ms_of_rounds           the lowest and the highest
    texts_per_s, pieces_per_s  all texts at once, the median of rounds; best_texts_per_s of the best round
    latency_ratio              the best peer's mean_ms / this one's
    throughput_ratio           this one's texts_per_s / the best peer's
    """

    workload: str
    texts: int
    pieces: int
    competitor: str
    is_peer: bool
    dtype: str
    agreement: float
    f1: float | None
    max_pieces_alone: int
    max_pieces_at_once: int
    p50_ms: float = 0.0
    mean_ms: float = 0.0
    p99_ms: float = 0.0
    p50_ms_of_rounds: tuple[float, float] = (0.0, 0.0)
    texts_per_s: float = 0.0
    best_texts_per_s: float = 0.0
    pieces_per_s: float = 0.0
    latency_ratio: float = 0.0
    throughput_ratio: float = 0.0

    def put_alone(self, rounds: Sequence[Sequence[float]]) -> None:
        """rounds: seconds of every text."""
        of_texts = sorted(1_000 * statistics.median(tries) for tries in zip(*rounds, strict=True))
        self.p50_ms, self.mean_ms = statistics.median(of_texts), statistics.fmean(of_texts)
        self.p99_ms = of_texts[int(0.99 * len(of_texts))]
        of_rounds = [1_000 * statistics.median(seconds) for seconds in rounds]
        self.p50_ms_of_rounds = min(of_rounds), max(of_rounds)

    def put_at_once(self, rounds: Sequence[Sequence[float]]) -> None:
        """rounds: the seconds of all texts."""
        seconds = [whole_s for (whole_s,) in rounds]
        self.texts_per_s, self.best_texts_per_s = self.texts / statistics.median(seconds), self.texts / min(seconds)
        self.pieces_per_s = self.pieces / statistics.median(seconds)


def choose_budget(competitor: Competitor, texts: Sequence[EncodedText], *, at_once: bool) -> int:
    """The budget of the fastest of some tries; the engine, which has its own, is only warmed up."""
    seconds = dict.fromkeys(BUDGETS if competitor.is_peer else BUDGETS[:1], float("inf"))
    for _ in range(TRIES):
        for max_pieces in seconds:
            answered = competitor.take(Turn(texts, max_pieces, at_once))
            seconds[max_pieces] = min(seconds[max_pieces], sum(answered.seconds))
    return min(seconds, key=seconds.__getitem__)


def measure(competitors: Sequence[Competitor], workload: Workload, rounds: int) -> list[Row]:
    """Warm up and choose budgets, take turns at single texts, take turns at all at once; -> a row for each."""
    texts, pieces = workload.texts, sum(text.num_pieces for text in workload.texts)
    rows, alone, at_once = [], [], []
    for competitor in competitors:
        competitor.take(Turn(texts, BUDGETS[0]))
        alone.append(Turn(texts, choose_budget(competitor, texts[:TEXTS_OF_A_TRIAL], at_once=False)))
        at_once.append(Turn(texts, choose_budget(competitor, texts, at_once=True), at_once=True))
        name, dtype, agreement, f1 = competitor.name, competitor.dtype, competitor.agreement, competitor.f1
        budgets = alone[-1].max_pieces, at_once[-1].max_pieces
        rows.append(Row(workload.name, len(texts), pieces, name, competitor.is_peer, dtype, agreement, f1, *budgets))
    for row, seconds in zip(rows, _rounds(competitors, alone, rounds), strict=True):
        row.put_alone(seconds)
    for row, seconds in zip(rows, _rounds(competitors, at_once, rounds), strict=True):
        row.put_at_once(seconds)
    _compare(rows)
    return rows


def _rounds(competitors: Sequence[Competitor], turns: Sequence[Turn], rounds: int) -> list[list[list[float]]]:
    """-> per competitor and round, its turn's seconds."""
    seconds: list[list[list[float]]] = [[] for _ in competitors]
    for _ in range(rounds):
        for competitor, turn, of_rounds in zip(competitors, turns, seconds, strict=True):
            of_rounds.append(competitor.take(turn).seconds)
    return seconds


def _compare(rows: Sequence[Row]) -> None:
    """Put the ratios to the best peer into the rows of one workload."""
    peers = [row for row in rows if row.is_peer]
    best_ms, best_texts_per_s = min(row.mean_ms for row in peers), max(row.texts_per_s for row in peers)
    for row in rows:
        row.latency_ratio, row.throughput_ratio = best_ms / row.mean_ms, row.texts_per_s / best_texts_per_s


def print_rows(rows: Sequence[Row]) -> None:
    """The table of one workload."""
    texts, pieces = rows[0].texts, rows[0].pieces
    print(f"\n{rows[0].workload}: {texts} texts of {pieces / texts:.0f} pieces; ratios to the best peer")
    print(
        f"{'competitor':22s} {'dtype':8s} {'p50 ms':>7s} {'of rounds':>14s} {'mean ms':>8s} {'p99 ms':>7s} "
        f"{'ratio':>6s} {'texts/s':>7s} {'best':>7s} {'pieces/s':>8s} {'ratio':>6s} {'budget':>6s} {'agrees':>6s} "
        f"{'F1':>6s}"
    )
    for row in rows:
        low, high = row.p50_ms_of_rounds
        alone = (
            f"{row.p50_ms:7.2f} {low:6.2f} -{high:6.2f} {row.mean_ms:8.2f} {row.p99_ms:7.2f} {row.latency_ratio:6.2f}"
        )
        at_once = (
            f"{row.texts_per_s:7.1f} {row.best_texts_per_s:7.1f} {row.pieces_per_s:8.0f} {row.throughput_ratio:6.2f}"
        )
        budget = row.max_pieces_at_once if row.is_peer else ""
        f1 = "" if row.f1 is None else f"{row.f1:6.2f}"
        print(f"{row.competitor:22s} {row.dtype:8s} {alone} {at_once} {budget:>6} {row.agreement:6.3f} {f1}")


def versions() -> dict[str, str]:
    """Of what peers run on; ends here where one is not installed."""
    names = ("torch", "transformers", "onnx", "onnxruntime", "openvino")
    return {name: str(library(name).__version__) for name in names}


def processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def names_of(given: str) -> list[str]:
    """Peers by name."""
    names = list(PEERS) if given == "all" else given.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise SystemExit(f"unknown peers {unknown}; expected all, or some of {','.join(PEERS)}")
    return names


def hold(names: Sequence[str], stored: StoredModel, options: argparse.Namespace, threads: int) -> list[Row]:
    """Start everybody, check them, and measure workload by workload; prints each table as it is done."""
    workloads = workloads_of(stored, options.file, options.texts)
    examples = read_examples(options.file)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as graphs, ExitStack() as stack:
        write_graphs(stored.model, Path(graphs))
        setup = Setup(stored.folder.resolve(), options.executor, threads, Path(graphs))
        competitors = [stack.enter_context(closing(Competitor(name, setup))) for name in names]
        for competitor in competitors:
            competitor.wait()
        check(competitors, stored, workloads)
        for competitor in competitors if options.f1 else ():
            measure_f1(competitor, stored, examples)
        for workload in workloads:
            rows += measure(competitors, workload, options.rounds)
            print_rows(rows[-len(competitors) :])
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--texts", type=int, default=600, help="how many sentences, drawn at random with a fixed seed")
    parser.add_argument("--rounds", type=int, default=5)
    add_executor(parser)
    parser.add_argument("--peers", default="all", help=f"all, or some of {','.join(PEERS)}")
    parser.add_argument("--f1", action="store_true", help="measure F1 of every competitor on the whole file")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    names, used, device = [*names_of(options.peers), *OURS], versions(), processor()
    stored, threads = load(options.model, options.store), options.threads or available_cores()
    print(f"{stored.reference}, {options.file.name}, {device}, {threads} threads, {used}")
    rows = hold(names, stored, options, threads)
    if options.json:
        given = f"--texts {options.texts} --rounds {options.rounds} --threads {threads} --peers {options.peers}"
        command = f"python -m benchmarks.peers {stored.config.name} DATA/{options.file.name} {given}"
        document = {"command": command + " --f1" * options.f1, "model": stored.reference, "device": device}
        document |= {"versions": used, "threads": threads, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
