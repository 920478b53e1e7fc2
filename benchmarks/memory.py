"""Measures the resident memory of the server while it answers 100,000 requests.

    python -m benchmarks.memory conll2003-minilm DATA/conll2003/test.conll

Several connections send one text after another, drawn from the file at random with a fixed seed; every thousandth text
is a long one of many sentences. It prints megabytes (10^6 bytes) as it goes, which it reads from /proc: it needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.served_equals_offline import start_server
from service.data.readers import read_examples
from service.models.store import find_model

CONNECTIONS = 16
LONG_EVERY, LONG_TEXTS = 1_000, 60


def resident_mb(process_id: int) -> float:
    """Return the resident memory of a process, in megabytes (10^6 bytes)."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def endless(texts: list[str]) -> Iterator[str]:
    """Yield texts drawn at random; every LONG_EVERY-th is LONG_TEXTS of them joined."""
    draw = random.Random(0)
    for number in itertools.count(1):
        yield " ".join(draw.choices(texts, k=LONG_TEXTS)) if number % LONG_EVERY == 0 else draw.choice(texts)


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> int:
    """Send one request on an open connection; return the status of its answer."""
    body = json.dumps({"text": text}).encode()
    head = "POST /ner HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    (length,) = (int(line.split(b":")[1]) for line in answer if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(answer[0].split()[1])


async def send_all(url: str, process_id: int, texts: list[str], requests: int) -> list[dict[str, Any]]:
    """Send all requests; return the memory at the start and after every twentieth of them."""
    source, sent = endless(texts), itertools.count(1)
    rows = [{"requests": 0, "resident_mb": round(resident_mb(process_id), 1)}]

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        while (number := next(sent)) <= requests:
            status = await post(reader, writer, next(source))
            if status != 200:
                raise SystemExit(f"the server answered {status}")
            if number % max(1, requests // 20) == 0:
                rows.append({"requests": number, "resident_mb": round(resident_mb(process_id), 1)})
                print(f"{number:8d} requests  {rows[-1]['resident_mb']:7.1f} MB", flush=True)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return rows


def main() -> None:
    """Measure memory and print it as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    texts = [example.text for example in read_examples(options.file)]
    with tempfile.TemporaryDirectory() as state_dir:
        process, url = start_server(str(find_model(options.model, options.store)), state_dir)
        try:
            rows = asyncio.run(send_all(url, process.pid, texts, options.requests))
        finally:
            process.terminate()
            process.wait()
    if options.json:
        command = f"python -m benchmarks.memory {options.model} DATA/{options.file.name}"
        options.json.write_text(json.dumps({"command": command, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
