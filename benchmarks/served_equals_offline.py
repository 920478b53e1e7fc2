"""F1 and average exit layer of a model through a running server, beside what `evaluate` says offline.

    python -m benchmarks.served_equals_offline conll2003-minilm DATA/conll2003/test.conll

Starts a server of its own on a free port, sets every policy by PATCH, posts the file's texts and scores the answers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import torch

from service.data.readers import Example, read_examples
from service.evaluation.policy import evaluate_policy
from service.exits.merge import policy_from_json
from service.models.store import StoredModel, find_model, load_model
from service.spans.score import Score, score

POLICIES: list[dict[str, Any]] = [
    {"strategy": "full_depth"},
    {"strategy": "vee", "tau": -0.0003, "patience": 1},
    {"strategy": "vee", "tau": -0.003, "patience": 1},
    {"strategy": "vee", "tau": -0.02, "patience": 1},
    {"strategy": "vee", "tau": -0.02, "patience": 2},
    {"strategy": "budgeted", "layer": 3},
]
TEXTS_PER_CALL = 64
ADMIN_KEY = "benchmark"


def call(url: str, method: str, body: object) -> Any:
    """One JSON request."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def start_server(model: str, state_dir: str) -> tuple[subprocess.Popen[str], str]:
    """-> the process, and its URL once it is ready."""
    settings = {"NER_MODEL": model, "NER_PORT": "0", "NER_STATE_DIR": state_dir, "NER_ADMIN_KEY": ADMIN_KEY}
    settings["NER_DRAIN_S"] = "0"
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True)
    if process.stderr is None:
        raise RuntimeError("the server's log is not piped")
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "ready":
            return process, event["url"]
    raise SystemExit("the server did not start")


def served(url: str, examples: list[Example], policy: dict[str, Any]) -> tuple[Score, float]:
    """Set `policy`, post every text; -> counts and average exit layer per sequence."""
    call(f"{url}/exit-policy", "PATCH", policy)
    micro, layers = Score(), []
    for start in range(0, len(examples), TEXTS_PER_CALL):
        chunk = examples[start : start + TEXTS_PER_CALL]
        answer = call(f"{url}/ner", "POST", {"texts": [example.text for example in chunk]})
        for example, result in zip(chunk, answer["results"], strict=True):
            found = {(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]}
            gold = {(entity.start, entity.end, entity.label) for entity in example.entities}
            micro += score(gold, found)
            layers += [sequence["exit_layer"] for sequence in result["sequences"]]
    return micro, sum(layers) / len(layers)


def offline(stored: StoredModel, examples: list[Example], policy: dict[str, Any]) -> tuple[Score, float]:
    """The same, without a server."""
    resolved = policy_from_json(policy, stored.config.num_layers)
    cpu = torch.device("cpu")
    result = evaluate_policy(stored.model, stored.text_encoder, examples, resolved, device=cpu)
    return result.micro, result.average_exit_layer


def main() -> None:
    """Print the table; exit with 1 where served and offline differ by more than 0.01 F1 or 0.001 layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    folder = find_model(options.model, options.store)
    stored, examples = load_model(folder), read_examples(options.file)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as state_dir:
        process, url = start_server(str(folder), state_dir)
        try:
            print(f"{stored.reference} on {options.file.name}          served            offline")
            print(f"{'policy':42s}   F1     layer      F1     layer")
            for policy in POLICIES:
                (over_http, http_layer), (direct, direct_layer) = (
                    served(url, examples, policy),
                    offline(stored, examples, policy),
                )
                name = " ".join(str(value) for value in policy.values())
                f1, direct_f1 = 100 * over_http.f1, 100 * direct.f1
                print(f"{name:42s} {f1:6.2f}  {http_layer:6.3f}   {direct_f1:6.2f}  {direct_layer:6.3f}", flush=True)
                rows.append({"policy": policy, "served_f1": f1, "served_average_exit_layer": http_layer})
                rows[-1] |= {"offline_f1": direct_f1, "offline_average_exit_layer": direct_layer}
        finally:
            process.terminate()
            process.wait()
    if options.json:
        command = f"python -m benchmarks.served_equals_offline {stored.config.name} DATA/{options.file.name}"
        document = {"command": command, "model": stored.reference, "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    f1_gap = max(abs(row["served_f1"] - row["offline_f1"]) for row in rows)
    layer_gap = max(abs(row["served_average_exit_layer"] - row["offline_average_exit_layer"]) for row in rows)
    sys.exit(f1_gap > 0.01 or layer_gap > 0.001)


if __name__ == "__main__":
    main()
