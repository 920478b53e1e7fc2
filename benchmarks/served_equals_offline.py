"""Compares F1 and average exit layer of a model through a running server with those of replaying a trace offline.

    python -m benchmarks.served_equals_offline conll2003-minilm DATA/conll2003/test.conll

It starts a server of its own on a free port, sets every policy by PATCH, posts the file's texts and scores the answers.
It also compares presets with what the server expects of them: the average exit layer on the data of calibration.
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

from service.assets import assets_of
from service.data.readers import Example, read_examples
from service.evaluation.replay import Replayer
from service.evaluation.run_policy import evaluate_policy
from service.evaluation.trace import trace
from service.executors.choose import make_executor
from service.exits.operating_points import PRESETS, catalog_of
from service.exits.policies import STRATEGIES
from service.models.store import find_model, load_model
from service.spans.score import Score, score

BY_WORD: list[dict[str, Any]] = [
    {"strategy": "tokee", "tau": 0.05, "window": 3},
    {"strategy": "tokee", "tau": 0.3, "window": 3},
    {"strategy": "de3", "tau": 0.2, "weight": 1.0},
]
POLICIES: list[dict[str, Any]] = [
    {"strategy": "full_depth"},
    {"strategy": "budgeted", "layer": 3},
    {"strategy": "vee", "tau": -0.0003, "patience": 1},
    {"strategy": "vee", "tau": -0.003, "patience": 1},
    {"strategy": "vee", "tau": -0.02, "patience": 2},
    {"strategy": "vee", "measure": "js", "pooling": "max"},
    {"strategy": "vee", "measure": "entity_jaccard", "ensemble": True},
    {"strategy": "branchynet"},
    {"strategy": "shallow_deep"},
    {"strategy": "sentee"},
    {"strategy": "pabee"},
    {"strategy": "gated_vote"},
]
PRESET_WISHES: list[dict[str, Any]] = [{"preset": preset} for preset in PRESETS]
TEXTS_PER_CALL = 64
ADMIN_KEY = "benchmark"


def call(url: str, method: str, body: object) -> Any:
    """Send one JSON request with the admin key, and return the JSON of its answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def start_server(model: str, state_dir: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return its process, and its URL once it is ready. Raises SystemExit if it does not start."""
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


def served(url: str, examples: list[Example], change: dict[str, Any]) -> tuple[dict[str, Any], Score, float]:
    """Change the policy and post every text; return the policy in force, counts, and average exit layer."""
    policy = call(f"{url}/exit-policy", "PATCH", change)
    micro, layers = Score(), []
    for start in range(0, len(examples), TEXTS_PER_CALL):
        chunk = examples[start : start + TEXTS_PER_CALL]
        answer = call(
            f"{url}/ner", "POST", {"texts": [example.text for example in chunk], "trace": policy["strategy"] == "tokee"}
        )
        for example, result in zip(chunk, answer["results"], strict=True):
            found = {(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]}
            gold = {(entity.start, entity.end, entity.label) for entity in example.entities}
            micro += score(gold, found)
            layers += [_depth(sequence) for sequence in result["sequences"]]
    return policy, micro, sum(layers) / len(layers)


def _depth(sequence: dict[str, Any]) -> float:
    """Return the exit layer of a sequence or, if its words halted one by one, the mean over its words."""
    words = sequence.get("word_layers")
    return sum(word["layer"] for word in words) / len(words) if words else float(sequence["exit_layer"])


def main() -> None:
    """Print the table; exit with 1 if served and offline differ by more than 0.01 F1 or 0.001 layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    folder = find_model(options.model, options.store)
    stored, examples = load_model(folder), read_examples(options.file)
    catalog = catalog_of(stored.operating_points, assets_of(stored.model))
    executor = make_executor("auto", stored.model)
    replayer = Replayer(trace(stored, examples, options.file.name, executor))
    by_word = [change for change in BY_WORD if change["strategy"] in catalog.strategies]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as state_dir:
        process, url = start_server(str(folder), state_dir)
        try:
            print(f"{stored.reference} on {options.file.name}          served            offline      expected")
            print(f"{'policy':42s}   F1     layer      F1     layer      layer")
            for change in [*POLICIES, *by_word, *(PRESET_WISHES if stored.operating_points else [])]:
                policy, over_http, http_layer = served(url, examples, change)
                parameters = {name: policy[name] for name in STRATEGIES[policy["strategy"]].parameters()}
                wanted = catalog.policy({"strategy": policy["strategy"], **parameters})
                if wanted.is_replayable:
                    direct = replayer.replay(wanted)
                else:
                    direct = evaluate_policy(executor, stored.text_encoder, examples, wanted).replay
                expected = policy["expected"]["average_exit_layer"] if policy["preset"] else None
                name = " ".join(str(value) for value in change.values())
                f1, direct_f1 = 100 * over_http.f1, 100 * direct.micro.f1
                figures = f"{f1:6.2f}  {http_layer:6.3f}   {direct_f1:6.2f}  {direct.average_exit_layer:6.3f}"
                print(f"{name:42s} {figures}  {f'{expected:9.3f}' if expected else ''}", flush=True)
                row = {"change": change, "strategy": policy["strategy"], **parameters}
                row |= {"served_f1": f1, "served_average_exit_layer": http_layer}
                row |= {"offline_f1": direct_f1, "offline_average_exit_layer": direct.average_exit_layer}
                rows.append({**row, "expected_average_exit_layer": expected})
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
