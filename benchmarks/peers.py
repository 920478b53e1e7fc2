"""Our engine beside full-depth peers: Transformers, ONNX Runtime and OpenVINO, side by side in one run.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.peers conll2003-minilm DATA/conll2003/test.conll --f1

A peer is the same encoder run to full depth, with the last exit in its graph and our decoding after it; its time runs
from word pieces to spans, as ours does. Our competitors go through the real engine. Before anything is measured, every
competitor answers some texts: a float32 peer must give the reference executor's spans, the others nearly the same.

The same sentences make three workloads: as they are, joined to sentences of 128 words, and joined to documents of 40
sentences, which the service splits again. Each workload is answered one text at a time (by a peer with the sequences of
a text in padded batches), and all texts at once: by the engine as a burst, by a peer in padded batches of similar
length. A trial chooses how many pieces a peer's batches hold, for each of these six cases.

Every competitor has a process of its own, as it would in service (about 0.5 GB each), and the same number of threads.
Thread pools spin for a while after their work, as they do by default; so competitors take turns by whole rounds, not
text by text, and a pause before each turn lets the threads of the last one go to sleep. An untimed round and the trials
warm up: the time in which OpenVINO compiles for each new input shape is not in the figures, though a service has it.

`--instructions avx2` compares all as on a processor that has nothing faster: ours is told so, and from every
competitor's process the rest is hidden, where the system can do that; where it cannot, peers use all that there is, and
the first line and the file of the results say so. Without VNNI, ONNX Runtime's weights have 7 bits, as its manual asks.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.engines import add_executor, draw_texts, load
from benchmarks.hidden_instructions import HIDDEN, can_hide, restrict_mkl
from benchmarks.peer_engines import FULL_DEPTH, OURS, PEERS, Setup, Spans, library, write_graphs
from benchmarks.peer_turns import Competitor, Turn
from service.data.readers import Example, read_examples
from service.evaluation.predict import decode_every_exit
from service.executors.choose import make_executor
from service.models.device import available_cores
from service.models.store import StoredModel
from service.spans.score import Score, keys, score
from service.text.types import EncodedText

LONG_SENTENCE_WORDS = 128
DOCUMENT_SENTENCES = 40
BUDGETS = (256, 512, 1024)  # pieces of a padded batch; every peer is slower with fewer or more
TEXTS_OF_A_TRIAL = 10  # in the trials of texts one at a time
TRIES = 2
TEXTS_OF_A_CHECK = 40
LEAST_AGREEMENT = 0.9


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of one kind."""

    name: str
    texts: Sequence[EncodedText]


def workloads_of(stored: StoredModel, file: Path, count: int) -> list[Workload]:
    """Return the same random sentences as they are, joined to long sentences, and joined to documents."""
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
    """Measure how far each competitor agrees with the reference executor, one text at a time and all at once.

    Raises SystemExit if a peer, or our full depth, agrees too little; presets may differ.
    """
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
    """Return the F1, in [0, 1], of spans against the expected ones, without their scores."""
    ours, theirs = _keys(expected), _keys(found)
    return 2 * len(ours & theirs) / max(len(ours) + len(theirs), 1)


def _keys(spans: Spans) -> set[tuple[int, int, int, int, int]]:
    """Return text, sequence, start, end and label of every span."""
    sequences = ((text, index, found) for text, of_text in enumerate(spans) for index, found in enumerate(of_text))
    return {(text, index, span.start, span.end, span.label) for text, index, found in sequences for span in found}


def measure_f1(competitor: Competitor, stored: StoredModel, examples: Sequence[Example]) -> None:
    """Measure the competitor's strict micro-F1 on a whole file, one text at a time."""
    texts = stored.text_encoder.encode_batch([example.text for example in examples])
    total = Score()
    for example, text, spans in zip(examples, texts, competitor.take(Turn(texts, BUDGETS[0])).spans, strict=True):
        total += score(keys(example.entities), keys(stored.text_encoder.entities(text, spans)))
    competitor.f1 = 100 * total.f1


@dataclass(slots=True)
class Row:
    """The figures of one competitor on one workload.

    agreement, f1              see Competitor
    max_pieces_alone, max_pieces_at_once: the most pieces of a peer's batches, for texts one at a time and all at once
    p50_ms, mean_ms, p99_ms    over texts, answered one at a time, of the median over rounds
    p50_ms_of_rounds           the lowest and the highest p50 of a round
    texts_per_s, pieces_per_s  for all texts at once, the median of rounds; best_texts_per_s is of the best round
    latency_ratio              the best peer's mean_ms / this competitor's
    throughput_ratio           this competitor's texts_per_s / the best peer's
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
        """Set the figures of texts one at a time; rounds: (rounds, texts) seconds."""
        of_texts = sorted(1_000 * statistics.median(tries) for tries in zip(*rounds, strict=True))
        self.p50_ms, self.mean_ms = statistics.median(of_texts), statistics.fmean(of_texts)
        self.p99_ms = of_texts[int(0.99 * len(of_texts))]
        of_rounds = [1_000 * statistics.median(seconds) for seconds in rounds]
        self.p50_ms_of_rounds = min(of_rounds), max(of_rounds)

    def put_at_once(self, rounds: Sequence[Sequence[float]]) -> None:
        """Set the figures of all texts at once; rounds: (rounds, 1) seconds."""
        seconds = [whole_s for (whole_s,) in rounds]
        self.texts_per_s, self.best_texts_per_s = self.texts / statistics.median(seconds), self.texts / min(seconds)
        self.pieces_per_s = self.pieces / statistics.median(seconds)


def choose_budget(competitor: Competitor, texts: Sequence[EncodedText], *, at_once: bool) -> int:
    """Return the budget of the fastest of some tries; the engine has a budget of its own, and is only warmed up."""
    seconds = dict.fromkeys(BUDGETS if competitor.is_peer else BUDGETS[:1], float("inf"))
    for _ in range(TRIES):
        for max_pieces in seconds:
            answered = competitor.take(Turn(texts, max_pieces, at_once))
            seconds[max_pieces] = min(seconds[max_pieces], sum(answered.seconds))
    return min(seconds, key=seconds.__getitem__)


def measure(competitors: Sequence[Competitor], workload: Workload, rounds: int) -> list[Row]:
    """Warm up and choose budgets, then take turns with single texts and with all at once; return a row for each."""
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
    """Take turns; return the seconds of each turn, by competitor and round."""
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
    """Print the table of one workload."""
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
    """Return the versions of the peers' libraries. Raises SystemExit if one is not installed."""
    names = ("torch", "transformers", "onnx", "onnxruntime", "openvino")
    return {name: str(library(name).__version__) for name in names}


def processor() -> str:
    """Return the name of the processor, or of its architecture if the system does not tell the name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def names_of(given: str) -> list[str]:
    """Return the names of the peers that are asked for."""
    names = list(PEERS) if given == "all" else given.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise SystemExit(f"unknown peers {unknown}; expected all, or some of {','.join(PEERS)}")
    return names


def told_of(instructions: str) -> str:
    """Return whose instructions are restricted. Raises SystemExit for some that are not to be compared with peers."""
    if instructions == "auto":
        return "everyone uses all instructions of the processor"
    if instructions not in HIDDEN:
        raise SystemExit(f"--instructions {instructions}; expected auto, or one of {', '.join(HIDDEN)}")
    if can_hide():
        return f"instructions beyond {instructions} are hidden from everyone (CPUID faults)"
    return f"ours uses {instructions}; peers use all instructions, which this system cannot hide from them"


def hold(names: Sequence[str], stored: StoredModel, options: argparse.Namespace, threads: int) -> list[Row]:
    """Start and check all competitors, then measure workload by workload, and print each table when it is done."""
    workloads = workloads_of(stored, options.file, options.texts)
    examples = read_examples(options.file)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as graphs, ExitStack() as stack:
        hides_faster = options.instructions != "auto" and can_hide()
        setup = Setup(
            *(stored.folder.resolve(), options.executor, threads, Path(graphs), options.instructions, hides_faster)
        )
        write_graphs(stored.model, setup.graphs, narrow=hides_faster and options.instructions.startswith("avx2"))
        if hides_faster:
            restrict_mkl()
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
    """Measure and print the tables."""
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
    restricted = told_of(options.instructions)
    print(f"{stored.reference}, {options.file.name}, {device}, {threads} threads, {used}; {restricted}")
    rows = hold(names, stored, options, threads)
    if options.json:
        given = f"--texts {options.texts} --rounds {options.rounds} --threads {threads} --peers {options.peers}"
        given += f" --instructions {options.instructions}" * (options.instructions != "auto")
        command = f"python -m benchmarks.peers {stored.config.name} DATA/{options.file.name} {given}"
        document = {"command": command + " --f1" * options.f1, "model": stored.reference, "device": device}
        document["instructions"] = restricted
        document |= {"versions": used, "threads": threads, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
