"""A distilled model beside its teacher: milliseconds for a text, from text to entities, with ONNX Runtime as well.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.distilled runs/mine TEACHER

`python -m service distil` has written the folder: its model and its held-out texts. The teacher runs in its
Transformers pipeline, and in the same pipeline around ONNX Runtime in place of PyTorch, in float32 and with byte
matrices. All run in this process, one text at a time, in turns, on the same number of threads; F1 is against the labels
of the teacher.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peer_engines import library
from benchmarks.peers import processor
from service.data.readers import Example, read_examples
from service.distillation.labelling import Labeller
from service.distillation.report import answer, milliseconds, presets_of
from service.executors.choose import make_executor
from service.exits.policies.full_depth import FullDepth
from service.models.classifier import TokenClassifier
from service.models.device import available_cores, use_threads
from service.models.store import load_model
from service.spans.score import Score, keys, score

INPUTS = ("input_ids", "attention_mask")


class _Logits(nn.Module):
    """A token classifier that takes and gives tensors alone, as an export needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class _Session(nn.Module):
    """A token classifier run by ONNX Runtime, for a Transformers pipeline."""

    def __init__(self, graph: Path, threads: int) -> None:
        super().__init__()
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        (logits,) = self._session.run(None, {name: inputs[name].numpy() for name in INPUTS})
        return {"logits": torch.from_numpy(logits)}


def write_graphs(model: Any, folder: Path) -> dict[str, Path]:
    """Export a Transformers token classifier; return its graphs, float32 and with byte matrices, by name."""
    example = torch.ones(2, 3, dtype=torch.long)
    axes = {name: {0: "batch", 1: "pieces"} for name in (*INPUTS, "logits")}
    plain, bytes_ = folder / "float32.onnx", folder / "int8.onnx"
    model.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `peer_engines`: tracing is deprecated
        torch.onnx.export(
            _Logits(model).eval(),
            (example, example),
            plain,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    quantization = library("onnxruntime.quantization")
    quantization.quantize_dynamic(
        plain, bytes_, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=quantization.QuantType.QInt8
    )
    return {"ONNX Runtime float32": plain, "ONNX Runtime int8": bytes_}


def through(session: _Session, labeller: Labeller) -> Labeller:
    """Let a labeller's pipeline run a session in place of its model."""
    labeller.pipeline.model.forward = session.forward
    return labeller


def f1(find: Callable[[str], Any], examples: list[Example]) -> float:
    """Return the F1 x 100 of what `find` returns of each text, against the labels."""
    total = Score()
    for example in examples:
        (found,) = find(example.text)
        total += score(keys(example.entities), keys(found))
    return round(100 * total.f1, 2)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--executor", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    used = {name: str(library(name).__version__) for name in ("torch", "transformers", "onnx", "onnxruntime")}
    threads = use_threads(options.threads or available_cores())
    stored, classifier = load_model(options.run / "model"), TokenClassifier.read(options.teacher)
    strategy = json.loads((options.run / "labelled.run.json").read_text(encoding="utf-8"))["aggregation_strategy"]
    examples = read_examples(options.run / "data" / "test.jsonl")[: options.texts]
    executor = make_executor(options.executor, stored.model, device="cpu", threads=threads)

    def pipeline() -> Labeller:
        return Labeller(classifier, strategy)

    def of_labeller(labeller: Labeller, text: str) -> Any:
        return labeller([text])

    with tempfile.TemporaryDirectory() as folder:
        competitors: dict[str, Callable[[str], Any]] = {"Transformers": partial(of_labeller, pipeline())}
        for name, graph in write_graphs(pipeline().pipeline.model, Path(folder)).items():
            competitors[name] = partial(of_labeller, through(_Session(graph, threads), pipeline()))
        for name, policy in {"full depth": FullDepth(), **presets_of(stored)}.items():
            competitors[name] = partial(answer, stored, executor, policy)
        times = milliseconds(competitors, [example.text for example in examples])
        rows = [
            {"engine": name, "ms": round(times[name], 3), "f1": f1(find, examples)}
            for name, find in competitors.items()
        ]
    executor.close()
    print(f"{stored.reference}, {len(examples)} texts, {processor()}, {threads} threads, {used}")
    for row in rows:
        print(f"{row['engine']:22s} {row['ms']:8.3f} ms   F1 {row['f1']:6.2f}")
    if options.json:
        document = {
            "command": f"python -m benchmarks.distilled RUN TEACHER --texts {options.texts} --threads {threads}",
            "model": stored.reference,
            "device": processor(),
            "python": platform.python_version(),
            "versions": used,
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
