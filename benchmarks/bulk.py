"""Bulk work: a million short texts through POST /ner/stream, and what a stream costs interactive requests beside it.

    python -m benchmarks.bulk general-minilm DATA/conll2003/test.conll --json FILE

First, so many lines go through one stream: lines a second, and the server's resident memory as it goes (from /proc: it
needs Linux). Second, interactive requests for single texts arrive by a Poisson process, in rounds that take turns:
alone, and with a stream beside them that never ends. The ratio is that of the medians of the rounds' p99.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from benchmarks.load_client import HOST, Plan
from benchmarks.load_servers import Server, start_checkout
from benchmarks.load_trials import Client, arrivals, quantile
from benchmarks.memory import resident_mb
from benchmarks.peers import processor
from service.data.readers import read_examples
from service.models.device import available_cores

HERE = Path(__file__).resolve().parent.parent
LINES_A_WRITE = 32
SAMPLES = 20  # of memory
GRACE_S = 30.0
Row = dict[str, Any]


def endless(texts: Sequence[str]) -> Iterator[bytes]:
    """Yield lines of texts drawn at random."""
    draw = random.Random(0)
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
    while True:
        yield draw.choice(lines)


async def stream(port: int, lines: Iterator[bytes], answered: Callable[[int], None]) -> None:
    """Send lines while their answers are read; `answered` is told the number of each. Raises SystemExit for errors."""
    reader, writer = await asyncio.open_connection(HOST, port)
    sending = asyncio.create_task(_send(writer, lines))
    try:
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        if status != b"200":
            raise SystemExit(f"the server answered {status.decode()}")
        number = 0
        while (line := await reader.readline()) != b"0\r\n":  # the last chunk is empty
            if not line:
                raise SystemExit("the server ended the connection")
            if line.startswith(b"{"):  # beside the sizes of chunks
                number += 1
                if b'"error"' in line:
                    raise SystemExit(f"line {number} was answered {line.decode()}")
                answered(number)
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()  # what was sent ahead, which may be much, is for nobody


async def _send(writer: asyncio.StreamWriter, lines: Iterator[bytes]) -> None:
    head = f"POST /ner/stream HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    while some := b"".join(itertools.islice(lines, LINES_A_WRITE)):
        writer.write(b"%x\r\n%b\r\n" % (len(some), some))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def measure_stream(server: Server, texts: Sequence[str], count: int) -> Row:
    """Send so many lines; return lines a second, and resident megabytes (10^6 bytes), SAMPLES times as it goes."""
    memory = [{"lines": 0, "resident_mb": round(resident_mb(server.process.pid), 1)}]
    started = time.monotonic()

    def answered(number: int) -> None:
        if number % max(1, count // SAMPLES) == 0:
            memory.append({"lines": number, "resident_mb": round(resident_mb(server.process.pid), 1)})
            rate = number / (time.monotonic() - started)
            print(f"{number:9d} lines  {memory[-1]['resident_mb']:7.1f} MB  {rate:7.0f} lines/s", flush=True)

    asyncio.run(stream(server.port, itertools.islice(endless(texts), count), answered))
    seconds = time.monotonic() - started
    return {"lines": count, "lines_per_s": round(count / seconds, 1), "memory": memory}


class Beside:
    """A stream in a thread of its own, broken off at the end of `with`; `answered` counts its answers."""

    def __init__(self, port: int, texts: Sequence[str]) -> None:
        self.answered = 0
        self._port, self._texts = port, texts
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._stream()))

    def __enter__(self) -> Beside:
        self._thread.start()
        self._has_begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._streaming.cancel)
        self._thread.join()

    async def _stream(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streaming = asyncio.create_task(stream(self._port, endless(self._texts), self._count))
        self._has_begun.set()
        with suppress(asyncio.CancelledError):
            await self._streaming

    def _count(self, number: int) -> None:
        self.answered = number


def measure_interactive(server: Server, client: Client, texts: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Return a row for each rate: p50 and p99 alone and beside a stream, their ratio, and what the stream got done."""
    return [_at_rate(server, client, texts, rate, options) for rate in options.rates]


def _at_rate(server: Server, client: Client, texts: Sequence[str], rate: float, options: argparse.Namespace) -> Row:
    rounds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    lines_per_s = []
    for seed in range(options.rounds):
        for with_stream in (False, True):
            due = arrivals([(rate, options.seconds)], seed)
            drawn = random.Random(seed).choices(range(len(texts)), k=len(due))
            beside = Beside(server.port, texts) if with_stream else None
            with beside or nullcontext():
                report = client.carry_out(Plan(server.port, drawn, due, GRACE_S))
                if beside is not None:
                    lines_per_s.append(beside.answered / options.seconds)
            if failed := sum(status != 200 for status in report.status):
                raise SystemExit(f"{failed} of {len(due)} requests were not answered")
            times_ms = sorted(1_000 * (done - at) for at, done in zip(report.due, report.done, strict=True))
            rounds[with_stream].append((quantile(times_ms, 0.5), quantile(times_ms, 0.99)))
    found: Row = {"rate": rate, "requests": len(due), "lines_per_s": round(statistics.median(lines_per_s), 1)}
    for name, with_stream in (("alone", False), ("beside_a_stream", True)):
        p50s, p99s = zip(*rounds[with_stream], strict=True)
        found[name] = {
            "p50_ms": round(statistics.median(p50s), 3),
            "p99_ms": round(statistics.median(p99s), 3),
            "p99_ms_of_rounds": [round(p99, 3) for p99 in p99s],
        }
    found["p99_ratio"] = round(found["beside_a_stream"]["p99_ms"] / found["alone"]["p99_ms"], 3)
    alone_ms, beside_ms = (found[name]["p99_ms"] for name in ("alone", "beside_a_stream"))
    print(
        f"{rate:7.0f} requests/s  p99 {alone_ms:7.2f} ms alone, {beside_ms:7.2f} ms beside a stream of "
        f"{found['lines_per_s']:.0f} lines/s: {found['p99_ratio']:.2f} times",
        flush=True,
    )
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path, help="annotated sentences, of which the texts are taken")
    parser.add_argument("--lines", type=int, default=1_000_000, help="through one stream; 0 leaves that out")
    parser.add_argument("--rates", type=_numbers, default=[20.0, 100.0, 300.0], help="of interactive requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="alone and beside a stream each; 0 leaves them out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    texts = [example.text for example in read_examples(options.file)]
    document: Row = {
        "command": f"python -m benchmarks.bulk {options.model} DATA/{options.file.name}",
        "machine": f"{processor()}, {available_cores()} cores, shared with the client",
        "seconds": options.seconds,
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory() as folder, _serving(options.model, Path(folder)) as server:
        if options.lines:
            document["stream"] = measure_stream(server, texts, options.lines)
        if options.rounds:
            with Client(texts) as client:
                document["interactive"] = measure_interactive(server, client, texts, options)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _serving(model: str, folder: Path) -> Iterator[Server]:
    server = start_checkout(HERE, {"NER_MODEL": model}, folder)
    try:
        yield server
    finally:
        server.close()


def _numbers(listed: str) -> list[float]:
    return [float(number) for number in listed.split(",")]


if __name__ == "__main__":
    main()
