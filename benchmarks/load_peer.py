"""The peer of `benchmarks.load`: a Transformers token-classification pipeline behind FastAPI and uvicorn.

    python -m benchmarks.load_peer FOLDER THREADS

serves a folder that `build_peer` wrote: our encoder's weights in a BertForTokenClassification, and our tokenizer. One
thread runs the pipeline, so that requests do not compete for torch's threads (0: one per core) or for the tokenizer; it
also loads the model, since OpenMP serves the first thread best. A BERT has no word shapes and no exits, so these are
left out. The token head is fitted by least squares, to find about as many entities as our model, not for its F1.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor

from service.data.readers import Example
from service.models.backbones import FAMILIES
from service.models.device import use_threads
from service.models.store import TOKENIZER, StoredModel

HEAD_EXAMPLES = 400
RIDGE = 1.0
WARM_UP_TEXTS = ("Warm up.", "Ada Lovelace worked with Charles Babbage in London. " * 4)
SPECIALS = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}


def build_peer(stored: StoredModel, examples: Sequence[Example], folder: Path) -> None:
    """Write a Transformers checkpoint folder of the same architecture and size as `stored`, with its weights."""
    from transformers import AutoTokenizer, BertForTokenClassification

    if stored.config.encoder.family != "bert":
        raise SystemExit(f"the peer is a BERT; {stored.reference} is of the family {stored.config.encoder.family}")
    model: Any = BertForTokenClassification(bert_config(stored))
    model.eval()
    _, unexpected = model.load_state_dict(bert_weights(stored), strict=False)
    if unexpected:
        raise RuntimeError(f"no place in a BERT for {unexpected}")
    shutil.copy(stored.folder / TOKENIZER, folder / "tokenizer.json")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": stored.config.encoder.max_positions}
    (folder / "tokenizer_config.json").write_text(json.dumps({**kind, **SPECIALS}), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    head = fit_head(model, tokenizer, examples[:HEAD_EXAMPLES], stored.config.labels)
    model.classifier.load_state_dict(head)
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})


def bert_config(stored: StoredModel) -> Any:
    """Return the BertConfig of our encoder's shape."""
    from transformers import BertConfig

    encoder = stored.config.encoder
    return BertConfig(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_positions,
        type_vocab_size=encoder.type_vocab_size,
        hidden_act={"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}[encoder.activation],
        layer_norm_eps=encoder.layer_norm_eps,
        id2label=dict(enumerate(("O", *stored.config.labels))),
        label2id={label: index for index, label in enumerate(("O", *stored.config.labels))},
    )


def bert_weights(stored: StoredModel) -> dict[str, Tensor]:
    """Return our encoder's weights by the names in a BERT with a head: the reverse of `checkpoint.encoder_weights`."""
    family = FAMILIES["bert"]
    ours = stored.model.encoder.state_dict()
    theirs: dict[str, Tensor] = {}

    def put(name: str, module: str) -> None:
        for kind in ("weight", "bias"):
            if f"{module}.{kind}" in ours:
                theirs[f"bert.{name}.{kind}"] = ours[f"{module}.{kind}"]

    for module, name in family.embeddings.items():
        put(name, f"embeddings.{module}")
    for index in range(stored.config.num_layers):
        ours |= _apart(ours, f"layers.{index}.attention")
        for module, name in family.layer.items():
            put(f"{family.layers.format(index=index)}.{name}", f"layers.{index}.{module}")
    return theirs


def _apart(weights: Mapping[str, Tensor], attention: str) -> dict[str, Tensor]:
    """Return the weights with key and value apart, which our encoder holds in one matrix."""
    apart: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        key, value = weights[f"{attention}.key_value.{kind}"].chunk(2)
        apart |= {f"{attention}.key.{kind}": key, f"{attention}.value.{kind}": value}
    return apart


@torch.inference_mode()
def fit_head(model: Any, tokenizer: Any, examples: Sequence[Example], labels: Sequence[str]) -> dict[str, Tensor]:
    """Return weight and bias of the token head, by ridge regression of each piece's label on its last hidden state."""
    hidden, targets = [], []
    for example in examples:
        encoded = tokenizer(example.text, return_offsets_mapping=True, return_tensors="pt", truncation=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        states = model.bert(**encoded).last_hidden_state[0].double()
        hidden.append(torch.cat([states, torch.ones(len(states), 1, dtype=torch.double)], dim=1))
        targets += [_label_at(example, start, end, labels) for start, end in offsets]
    inputs = torch.cat(hidden)  # (pieces, hidden + 1)
    wanted = torch.nn.functional.one_hot(torch.tensor(targets), len(labels) + 1).double()
    gram = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1], dtype=torch.double)
    solution = torch.linalg.solve(gram, inputs.T @ wanted).float()  # (hidden + 1, labels + 1)
    return {"weight": solution[:-1].T.contiguous(), "bias": solution[-1].contiguous()}


def _label_at(example: Example, start: int, end: int, labels: Sequence[str]) -> int:
    """Return the label of a piece by its characters, 0 for none; special pieces have no characters."""
    for entity in example.entities:
        if entity.start <= start < end <= entity.end:
            return 1 + list(labels).index(entity.label)
    return 0


class PeerRequest(BaseModel):
    """A request with one text."""

    text: str


class Worker:
    """The pipeline, and the one thread that it is loaded and run in."""

    def __init__(self, folder: str, threads: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
        self._pipeline: Any = self._thread.submit(self._load, folder, threads).result()

    def _load(self, folder: str, threads: int) -> Any:
        from transformers import pipeline

        use_threads(threads)
        loaded = pipeline("token-classification", model=folder, aggregation_strategy="simple", device="cpu")
        for text in WARM_UP_TEXTS:
            loaded(text)
        return loaded

    async def find(self, text: str) -> tuple[list[dict[str, Any]], float]:
        """Return the entities of a text, and the pipeline's seconds."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, text)

    def _find(self, text: str) -> tuple[list[dict[str, Any]], float]:
        started = time.perf_counter()
        found = self._pipeline(text) if text.strip() else []
        return found, time.perf_counter() - started


def create_app(worker: Worker) -> FastAPI:
    """Return an app that serves POST /ner alone."""
    app = FastAPI()

    @app.post("/ner")
    async def ner(body: PeerRequest) -> JSONResponse:
        started = time.perf_counter()
        found, inference_s = await worker.find(body.text)
        entities = [
            {
                "start": int(entity["start"]),
                "end": int(entity["end"]),
                "text": body.text[entity["start"] : entity["end"]],
                "label": entity["entity_group"],
                "score": round(float(entity["score"]), 6),
            }
            for entity in found
        ]
        total_s = time.perf_counter() - started
        timing = f"inference;dur={1_000 * inference_s:.3f}, total;dur={1_000 * total_s:.3f}"
        return JSONResponse({"entities": entities}, headers={"Server-Timing": timing})

    return app


class PeerServer(uvicorn.Server):
    """uvicorn that logs where it listens, as our server does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen on a free port, then log the address."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{port}"}), file=sys.stderr, flush=True)


def main() -> None:
    """Serve until SIGTERM."""
    app = create_app(Worker(sys.argv[1], int(sys.argv[2])))
    config = uvicorn.Config(
        app, port=0, workers=1, log_config=None, access_log=False, timeout_graceful_shutdown=1, server_header=False
    )
    PeerServer(config).run()


if __name__ == "__main__":
    main()
