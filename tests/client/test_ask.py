"""The command `ask`, against a server that listens: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service import __main__ as command_line
from service.client.ask import format_result
from tests.api.servers_ import (
    ENTITY_TEXT,
    PATIENCE_S,
    PROJECT,
    GatedStepper,
    listening,
    tiny_service,
    use_stepper,
    wait_until,
)
from tests.models_ import TEXTS

API_KEY = "the-api-key"


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs a key."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), api_key=API_KEY)
    with listening(service) as url:
        yield url


@pytest.fixture(autouse=True)
def _environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's address and key, and no proxy."""
    monkeypatch.setenv("NER_URL", url)
    monkeypatch.setenv("NER_API_KEY", API_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(*arguments: str | Path) -> int:
    """Run the command; -> its exit code."""
    return command_line.main(["ask", *map(str, arguments)])


def test_a_text_is_answered_with_an_entity_a_line_and_where_it_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(ENTITY_TEXT) == 0
    *entities, last = capsys.readouterr().out.splitlines()
    assert entities and all(line.split()[0] in ("LOC", "ORG", "PER") and line.endswith("]") for line in entities)
    assert last.startswith("left at layer 4 of 4 (")
    assert last.endswith(" ms, tiny@1, policy 1)")


def test_for_machines_the_answer_is_printed_as_on_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(ENTITY_TEXT, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["entities"][0].keys() == {"start", "end", "text", "label", "score"}
    assert result["model"] == "tiny@1"


def test_a_file_of_texts_becomes_a_file_of_answers_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS), encoding="utf-8")
    assert ask("--file", source) == 0
    target = tmp_path / "texts.answers.jsonl"
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [record["text"] for record in records] == list(TEXTS)
    assert all(record["sequences"] for record in records)
    assert capsys.readouterr().err == f"{target}: 4 lines\n"


def test_lines_without_an_answer_are_named_and_give_another_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "texts.jsonl", tmp_path / "answers.jsonl"
    source.write_text('{"text": "Rome"}\nnonsense\n', encoding="utf-8")
    for _ in ("first", "again"):
        assert ask("--file", source, "--output", target) == 1
        named, summary = capsys.readouterr().err.splitlines()
        assert named.startswith(f"{source}:2: not JSON")
        assert summary == f"{target}: 2 lines, 1 of them without an answer"


def test_of_very_many_bad_lines_a_few_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("nonsense\n" * 1_000, encoding="utf-8")
    assert ask("--file", source) == 1
    assert len(capsys.readouterr().err.splitlines()) == 11


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--url", "nowhere"], "'nowhere'"),
        (["a", "--url", "http://127.0.0.1:1"], "start a server, or name the one there is by its url or NER_URL"),
        (["x" * 100_001], "text has 100001 characters"),
        (["a", "--output", "b"], "--output and --format are for the answers to --file"),
        (["a", "--format", "csv"], "the answer to one text is printed"),
        (["--file", "none.jsonl"], "none.jsonl cannot be read"),
        (["--file", "none.jsonl", "--labels", "PER,TIME"], "--labels TIME: the model tiny@1 has LOC, ORG, PER"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize("key", ["", "not-the-key"])
def test_a_missing_or_wrong_key_is_said_and_never_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NER_API_KEY", key)
    assert ask("a") == 2
    said = capsys.readouterr().err
    assert "NER_API_KEY holds the key" in said
    assert "not-the-key" not in said


@pytest.mark.parametrize("arguments", [[], ["a", "--file", "b.txt"]])
def test_a_text_or_a_file_is_asked_for_one_at_a_time(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        ask(*arguments)
    assert end.value.code == 2
    assert "--file" in capsys.readouterr().err


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put this on the standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_dash_reads_one_text_from_the_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, ENTITY_TEXT.encode())
    assert ask("-", "--json") == 0
    found = json.loads(capsys.readouterr().out)["entities"]
    assert ask(ENTITY_TEXT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["entities"] == found != []
    give(monkeypatch, b"\xff")
    assert ask("-") == 2
    assert "the standard input is not UTF-8" in capsys.readouterr().err


def test_a_file_of_a_dash_reads_many_and_prints_their_answers(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    give(monkeypatch, "Zürich\n\nRome\n".encode())
    assert ask("--file", "-") == 0
    out, err = capsysbinary.readouterr()
    assert [json.loads(line)["text"] for line in out.decode().splitlines()] == ["Zürich", "Rome"] and err == b""
    give(monkeypatch, b"text;n\nRome;1\n;2;\n")
    assert ask("--file", "-", "--format", "csv", "--output", tmp_path / "a") == 1
    assert [json.loads(line)["line"] for line in (tmp_path / "a").read_text().splitlines()] == [2, 3]
    assert b"-:3: 3 cells; the first line has 2" in capsysbinary.readouterr().err


def test_whoever_has_enough_of_the_answers_ends_the_command_quietly(url: str) -> None:
    command = f"yes Rome | head -2000 | {sys.executable} -m service ask --file - | head -1"
    run = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert json.loads(run.stdout)["text"] == "Rome"
    assert run.stderr == ""


def test_labels_keep_only_their_entities(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ask(ENTITY_TEXT, "--json") == 0
    labels = {entity["label"] for entity in json.loads(capsys.readouterr().out)["entities"]}
    kept, other = sorted(labels)[0], sorted({"LOC", "ORG", "PER"} - {sorted(labels)[0]})
    assert ask(ENTITY_TEXT, "--json", "--labels", kept) == 0
    assert {entity["label"] for entity in json.loads(capsys.readouterr().out)["entities"]} == {kept}
    (tmp_path / "texts.txt").write_text(ENTITY_TEXT)
    assert ask("--file", tmp_path / "texts.txt", "--labels", ", ".join(other)) == 0
    (record,) = map(json.loads, (tmp_path / "texts.answers.jsonl").read_text().splitlines())
    assert kept not in {entity["label"] for entity in record["entities"]}


def test_answers_on_file_of_another_model_or_policy_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "texts.txt", tmp_path / "texts.answers.jsonl"
    source.write_text("Rome\nOslo\n", encoding="utf-8")
    assert ask("--file", source) == 0
    assert ask("--file", source) == 0  # again, of the same ones
    assert "warning" not in capsys.readouterr().err
    for was, is_now in (('"model": "tiny@1"', '"model": "old@1"'), ('"policy_version": 1', '"policy_version": 4')):
        target.write_text(target.read_text().replace(was, is_now, 1))
    before = target.read_bytes()
    assert ask("--file", source) == 0
    said = capsys.readouterr().err
    assert (
        f"warning: 1 of the answers in {target} are by old@1 under policy 4; the server has tiny@1 under policy 1"
        in said
    )
    assert target.read_bytes() == before


def result_of(text: str, *exit_layers: int, entities: tuple[tuple[int, int, str], ...] = ()) -> dict[str, Any]:
    """A result of POST /ner."""
    return {
        "entities": [
            {"start": s, "end": e, "text": text[s:e], "label": label, "score": 0.5} for s, e, label in entities
        ],
        "exit_layer": max(exit_layers, default=0),
        "num_layers": 6,
        "sequences": [{"exit_layer": layer} for layer in exit_layers],
        "policy_version": 3,
        "model": "tiny@1",
        "timing_ms": {"total": 1.26},
    }


def test_people_see_entities_in_columns() -> None:
    text = "Anna in Oslo"
    assert format_result(result_of(text, 2, entities=((0, 4, "PERSON"), (8, 12, "LOC")))).splitlines() == [
        "PERSON  0.500  Anna  [0:4]",
        "LOC     0.500  Oslo  [8:12]",
        "left at layer 2 of 6 (1.3 ms, tiny@1, policy 3)",
    ]


def test_of_several_sentences_people_see_the_average_and_the_deepest_exit() -> None:
    assert format_result(result_of("a. b. c.", 1, 1, 3)).splitlines() == [
        "no entities",
        "3 sentences left at layer 1.7 of 6 on average, the deepest at 3 (1.3 ms, tiny@1, policy 3)",
    ]


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    shown = format_result(result_of("\x1b[2J\n\ud800é", 1, entities=((0, 7, "PER"),)))
    assert shown.splitlines()[0] == "PER  0.500  \\x1b[2J\\n\\ud800é  [0:7]"


def test_interrupted_by_a_person_it_says_so_and_goes_on_when_started_again(
    model_folder: Path, tmp_path: Path, url: str
) -> None:
    service, gated = tiny_service(model_folder, tmp_path / "state"), GatedStepper()
    use_stepper(service, gated)
    source = tmp_path / "texts.txt"
    source.write_text("Anna met Ben\n" * 1_000, encoding="utf-8")
    with listening(service) as slow, ThreadPoolExecutor() as pool:
        command = [sys.executable, "-m", "service", "ask", "--file", str(source), "--url", slow]
        process = subprocess.Popen(command, cwd=PROJECT, env=os.environ, stderr=subprocess.PIPE, text=True)
        said = pool.submit(process.communicate, timeout=PATIENCE_S)
        wait_until(gated.arrived.is_set)
        process.send_signal(signal.SIGINT)
        gated.gate.set()
        assert said.result()[1].startswith("stopped; the same command goes on after the last answer")
    assert process.returncode == 130
    target = tmp_path / "texts.answers.jsonl"
    assert target.read_bytes().count(b"\n") < 1_000
    assert ask("--file", source, "--url", url) == 0
    assert target.read_bytes().count(b"\n") == 1_000
