"""A file of texts to a file of answers: order, bad lines, and going on after an interruption."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import resource
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from ner_client import ServerLost
from service.client import answers
from service.client.answers import answer_file
from service.client.lines import Line, Source
from service.errors import BadInput
from tests.clients.scripted_ import bad, client_of, good, refusing, result, texts_of

PATIENCE_S = 60.0
TEXTS = [f"text {number} of Zürich 😀" for number in range(1, 12)]
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """TEXTS as JSON lines, with their ids."""
    path = tmp_path / "texts.jsonl"
    write(path, [{"id": f"n{number}", "text": text} for number, text in enumerate(TEXTS, 1)])
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the answers go."""
    return tmp_path / "answers.jsonl"


def write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(source: Path, target: Path, handler: Handler = good) -> list[dict[str, Any]]:
    """Answer a file; -> what was yielded, which is what is written."""
    with client_of(handler, max_texts=2) as client:
        records = list(answer_file(Source(source), target, client))
    assert [json.loads(line) for line in target.read_bytes().split(b"\n")[:-1]] == records
    return records


def lost_after(num_requests: int) -> Handler:
    """A server that takes the key for so many requests."""
    left = iter(range(num_requests))
    return lambda request: good(request) if next(left, None) is not None else bad(401)


def test_every_line_is_answered_with_its_number_id_and_text(source: Path, target: Path) -> None:
    assert run(source, target) == [
        {"line": number, "id": f"n{number}", "text": text, **result(text)} for number, text in enumerate(TEXTS, 1)
    ]


def test_plain_text_is_a_text_a_line_and_blank_lines_are_passed_over(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_bytes("\ufeffRome\r\n\n  \n{not json}\u2028\x0b, still the same\n\ufeffParis".encode())
    assert [(record["line"], record["text"]) for record in run(source, target)] == [
        (1, "Rome"),
        (4, "{not json}\u2028\x0b, still the same"),
        (5, "\ufeffParis"),
    ]


def test_answers_are_written_so_that_people_can_read_them(source: Path, target: Path) -> None:
    run(source, target)
    assert "Zürich 😀" in target.read_text(encoding="utf-8")


def test_order_is_kept_when_the_first_request_is_answered_last(source: Path, target: Path) -> None:
    others = threading.Semaphore(0)

    def handler(request: httpx.Request) -> httpx.Response:
        if TEXTS[0] in texts_of(request):
            assert all(others.acquire(timeout=PATIENCE_S) for _ in range(3))
        else:
            others.release()
        return good(request)

    assert [record["line"] for record in run(source, target, handler)] == list(range(1, 12))


def test_four_requests_are_under_way_at_a_time_and_never_more(source: Path, target: Path) -> None:
    lock, barrier = threading.Lock(), threading.Barrier(4, timeout=PATIENCE_S)
    underway, most = 0, 0
    write(source, [{"text": str(number)} for number in range(2 * 4 * 3)])

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal underway, most
        with lock:
            underway += 1
            most = max(most, underway)
        barrier.wait()
        with lock:
            underway -= 1
        return good(request)

    run(source, target, handler)
    assert most == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'"Rome"', 'no string as "text"'),
        (b"{}", 'no string as "text"'),
        (b'{"text": 7}', 'no string as "text"'),
        (b'{"text": "a", "id": [1]}', 'the "id" is neither a string nor a whole number'),
        (b'{"text": "a", "id": NaN}', 'the "id" is neither a string nor a whole number'),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_answered(
    source: Path, target: Path, line: bytes, said: str
) -> None:
    lines = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join([*lines[:4], line + b"\n", *lines[5:]]))
    records = run(source, target)
    assert [record["line"] for record in records if "error" in record] == [5]
    assert said in records[4]["error"]
    assert [record["text"] for record in records if "error" not in record] == [*TEXTS[:4], *TEXTS[5:]]


def test_a_text_that_the_server_refuses_costs_no_other_its_answer(source: Path, target: Path) -> None:
    records = run(source, target, refusing(TEXTS[6], "it is too strange"))
    assert records[6] == {"line": 7, "id": "n7", "text": TEXTS[6], "error": "it is too strange"}
    assert [record["line"] for record in records if "error" not in record] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_half_a_surrogate_pair_is_written_as_it_was_read_and_recognised(source: Path, target: Path) -> None:
    source.write_text(r'{"text": "a\ud800"}', encoding="utf-8")
    refused = run(source, target, refusing("a\ud800", "half a character"))
    assert refused == [{"line": 1, "text": "a\ud800", "error": "half a character"}]
    assert run(source, target) == refused


@pytest.mark.parametrize("num_requests", [0, 1, 3, 5])
def test_a_run_that_broke_off_goes_on_behind_its_last_answer(source: Path, target: Path, num_requests: int) -> None:
    with pytest.raises(ServerLost):
        run(source, target, lost_after(num_requests))
    before = target.read_bytes()
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.extend(texts_of(request))
        return good(request)

    assert [record["text"] for record in run(source, target, handler)] == TEXTS
    assert sorted(asked) == sorted(TEXTS[before.count(b"\n") :])
    assert target.read_bytes().startswith(before)


def test_an_answer_that_was_torn_off_anywhere_is_written_again(source: Path, target: Path) -> None:
    write(source, [{"text": text} for text in ("Zürich", "b")])
    run(source, target)
    whole = target.read_bytes()
    for length in range(len(whole)):
        target.write_bytes(whole[:length])
        run(source, target)
        assert target.read_bytes() == whole


def test_a_finished_run_asks_nobody(source: Path, target: Path) -> None:
    records = run(source, target)
    assert run(source, target, lambda _: bad(500)) == records


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[0].update(text="another"),
        lambda records: records[3].update(id="another"),
        lambda records: records[3].pop("id"),
        lambda records: records.insert(0, records[5]),
        lambda records: records.pop(2),
        lambda records: records.clear(),
    ],
)
def test_answers_to_a_file_that_was_changed_since_are_refused_and_left_alone(
    source: Path, target: Path, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    run(source, target)
    before = target.read_bytes()
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    change(records)
    write(source, records)
    with pytest.raises(BadInput, match=r"answers\.jsonl answers another line \d+ than .*texts\.jsonl has"):
        run(source, target)
    assert target.read_bytes() == before


def test_lines_that_were_added_at_the_end_are_answered(source: Path, target: Path) -> None:
    run(source, target)
    with source.open("a", encoding="utf-8") as file:
        file.write('{"text": "one more"}\n')
    assert run(source, target)[-1] == {"line": 12, "text": "one more", **result("one more")}


@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b"7\n", b"[]\n", b"\n", b'{"text": "a"}', b'{"text": "a"}\n', b'{"line": 1, \n']
)
def test_a_file_of_something_else_is_never_written_to(source: Path, target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(BadInput, match="something else than answers; name another --output"):
        run(source, target)
    assert target.read_bytes() == content


def test_a_file_that_is_being_written_is_left_alone(source: Path, target: Path) -> None:
    with target.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="being written by another process"):
            run(source, target)


@pytest.mark.parametrize(("name", "said"), [("none/answers.jsonl", "No such file"), (".", "Is a directory")])
def test_a_target_that_cannot_be_written_is_named(source: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"cannot be written: {said}"):
        run(source, tmp_path / name)


def test_a_full_disk_is_said_and_the_next_run_goes_on(source: Path, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(BadInput, match="cannot be written: File too large"):
            run(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.stat().st_size == 200
    assert [record["text"] for record in run(source, target)] == TEXTS


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.jsonl", "No such file"), ("texts.doc", r"'\.doc'; expected one of .*jsonl.*csv.*txt.*--format")],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, target: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(tmp_path / name, target)


# fields, and other forms of files


def read(path: Path, content: str | bytes, **options: str) -> list[Line]:
    """The lines of a file of this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(Source(path, **options).lines())


def test_all_fields_of_a_line_are_kept_and_none_is_taken_for_one_of_the_answer(source: Path, target: Path) -> None:
    write(
        source,
        [{"entities": ["gold"], "date": "2026-11-01", "text": "a", "tags": [1, {"b": None}], "id": 7, "line": 9}],
    )
    expected = {"line": 1, "id": 7, "text": "a", "date": "2026-11-01", "tags": [1, {"b": None}]}
    expected["given"] = {"entities": ["gold"], "line": 9}
    assert run(source, target) == [{**expected, **result("a")}]
    assert run(source, target, lambda _: bad(500)) == [{**expected, **result("a")}]  # and recognised when it goes on


def test_a_field_that_was_changed_since_is_noticed(source: Path, target: Path) -> None:
    write(source, [{"text": "a", "x": float("nan"), "date": "1"}])
    run(source, target)
    run(source, target)
    write(source, [{"text": "a", "x": float("nan"), "date": "2"}])
    with pytest.raises(BadInput, match="answers another line 1"):
        run(source, target)


def test_answers_without_the_further_fields_of_their_lines_are_not_gone_on_with(source: Path, target: Path) -> None:
    write(source, [{"text": "a", "date": "1"}])
    write(target, [{"line": 1, "text": "a", **result("a")}])
    with pytest.raises(BadInput, match="answers another line 1"):
        run(source, target)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_rows_of_csv_keep_their_columns_and_texts_of_several_lines(tmp_path: Path, separator: str) -> None:
    rows = [["id", "text", "note, or so"], ["a1", f'He said "Rome{separator}\nParis".', "x"], [], ["a2", "", "ü"]]
    content = io.StringIO()
    csv.writer(content, delimiter=separator).writerows(rows)
    assert [line.head for line in read(tmp_path / "texts.csv", "\ufeff" + content.getvalue())] == [
        {"line": 3, "id": "a1", "text": rows[1][1], "note, or so": "x"},
        {"line": 5, "id": "a2", "text": "", "note, or so": "ü"},
    ]


def test_the_column_of_the_texts_can_be_named(tmp_path: Path) -> None:
    (line,) = read(tmp_path / "texts.csv", "comment,text\nRome,b\n", column="comment")
    assert line.head == {"line": 2, "text": "Rome", "given": {"text": "b"}}
    (line,) = read(tmp_path / "texts.jsonl", '{"comment": "Rome", "id": 1}\n', column="comment")
    assert line.head == {"line": 1, "id": 1, "text": "Rome"}


def test_csv_without_the_column_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    for content in ("comment,date\na,b\n", ""):
        with pytest.raises(BadInput, match=r"no column 'text' in its first line, but \[.*\]; .* --column"):
            read(tmp_path / "texts.csv", content)


def test_rows_that_cannot_be_read_are_named_and_the_others_are_not_concerned(tmp_path: Path) -> None:
    content = b"text,date\na,1\nb\n\xff,1\nc,2\n" + b"d" * 300_000 + b",3\n"
    lines = read(tmp_path / "texts.csv", content)
    assert [line.problem for line in lines] == [
        "",
        "1 cells; the first line has 2",
        "not UTF-8; convert the file first",
        "",
        "",
    ]
    assert [line.number for line in lines] == [2, 3, 4, 5, 6]
    assert len(lines[-1].text) == 300_000


def test_a_format_can_be_named_where_the_suffix_does_not_say_it(tmp_path: Path) -> None:
    assert [line.text for line in read(tmp_path / "texts.log", "a\nb\n", kind="txt")] == ["a", "b"]


def test_only_entities_of_the_labels_that_were_named_are_asked_for(source: Path, target: Path) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["labels"])
        return good(request)

    with client_of(handler, max_texts=2) as client:
        list(answer_file(Source(source), target, client, ["PER", "LOC"]))
    assert asked == ["PER,LOC"] * 6


def test_answers_on_file_are_counted_by_who_gave_them(target: Path) -> None:
    assert not answers.answered_by(target)
    by = [{"model": "a@1", "policy_version": 1}, {"error": "none"}, {"model": "a@1", "policy_version": 2}]
    write(target, [{"line": 1, **one} for one in (*by, by[0])])
    target.write_bytes(target.read_bytes() + b'{"line": 5, "mo')
    assert answers.answered_by(target) == {("a@1", 1): 2, ("a@1", 2): 1}
