"""The component early_exit_ner in real pipelines of spaCy: alignment, batches, errors, saved pipelines, processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import ner_spacy.component
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from ner_client import Client, ServerLost, TextsRefused
from service import __version__
from tests.api.servers_ import ENTITY_TEXT, listening, tiny_service
from tests.clients.installed_ import install_clients
from tests.clients.scripted_ import URL, Handler, Script, answered, bad, refusing, result, texts_of, with_limits

TEXT = "😀 Anna Bell flew\n to Oslo-Gardermoen."
ANNA, BELL, OSLO = (2, 11, "PER"), (7, 11, "PER"), (21, 25, "LOC")
Found = tuple[int, int, str]


def finding(*entities: Found) -> Handler:
    """A server that finds these entities in every text."""

    def handler(request: httpx.Request) -> httpx.Response:
        results = [
            {
                **result(text),
                "entities": [
                    {"start": start, "end": end, "text": text[start:end], "label": label, "score": 0.5}
                    for start, end, label in entities
                ],
            }
            for text in texts_of(request)
        ]
        return answered(request, results)

    return handler


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a pipeline whose server is a function."""

    def pipeline(handler: Handler, **config: Any) -> Language:
        def client(url: str | None, **options: Any) -> Client:
            return Client(url, "", transport=httpx.MockTransport(with_limits(handler)), **options)

        monkeypatch.setattr(ner_spacy.component, "Client", client)
        nlp = spacy.blank("en")
        nlp.add_pipe("early_exit_ner", config={"url": URL, **config})
        return nlp

    return pipeline


def ents(doc: Doc) -> list[Found]:
    """By characters."""
    return [(entity.start_char, entity.end_char, entity.label_) for entity in doc.ents]


def group(doc: Doc) -> list[Found]:
    """The spans of the group, by characters."""
    return [(span.start_char, span.end_char, span.label_) for span in doc.spans["early_exit_ner"]]


def test_entities_are_those_of_the_document_and_the_group_has_their_scores(pipeline: Any) -> None:
    doc = pipeline(finding(ANNA, OSLO))(TEXT)
    assert ents(doc) == group(doc) == [ANNA, OSLO]
    assert doc.spans["early_exit_ner"].attrs["scores"] == [0.5, 0.5]
    assert [token.ent_iob_ for token in doc[:4]] == ["O", "B", "I", "O"]


def test_of_nested_entities_the_document_has_the_longest_and_the_group_all(pipeline: Any) -> None:
    doc = pipeline(finding(ANNA, BELL, OSLO))(TEXT)
    assert ents(doc) == [ANNA, OSLO]
    assert group(doc) == [ANNA, BELL, OSLO]


@pytest.mark.parametrize(
    ("mode", "found"), [("expand", [(2, 11, "PER")]), ("contract", [(7, 11, "PER")]), ("strict", [])]
)
def test_an_entity_that_begins_within_a_token_is_aligned_with_it(pipeline: Any, mode: str, found: list[Found]) -> None:
    doc = pipeline(finding((4, 11, "PER")), alignment_mode=mode)(TEXT)
    assert ents(doc) == group(doc) == found


def test_entities_that_grow_into_the_same_token_are_one_for_the_document(pipeline: Any) -> None:
    assert ents(pipeline(finding((2, 4, "PER"), (4, 6, "LOC")))(TEXT)) == [(2, 6, "PER")]


def test_what_an_earlier_component_has_set_stays(pipeline: Any) -> None:
    nlp = pipeline(finding(ANNA, OSLO))
    ruler = nlp.add_pipe("entity_ruler", before="early_exit_ner")
    ruler.add_patterns([{"label": "FAMILY", "pattern": "Bell"}])
    assert ents(nlp(TEXT)) == [(7, 11, "FAMILY"), OSLO]


def test_many_documents_go_in_few_requests_and_come_in_order(pipeline: Any) -> None:
    sent: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(len(texts_of(request)))
        return finding((0, 4, "PER"))(request)

    texts = [f"Anna {number}" for number in range(100)]
    docs = list(pipeline(handler).pipe(((text, text) for text in texts), as_tuples=True, batch_size=50))
    assert [(doc.text, context) for doc, context in docs] == [(text, text) for text in texts]
    assert all(ents(doc) == [(0, 4, "PER")] for doc, _ in docs)
    assert sorted(sent) == [18, 18, 32, 32]


def test_options_are_sent(pipeline: Any) -> None:
    script = Script()
    config = {"labels": ["PER"], "min_score": 0.5, "exit_policy": {"preset": "fast"}}
    pipeline(script, **config)("Anna")
    assert json.loads(script.requests[0].content) == {"text": "Anna", **config}


def test_what_is_refused_for_now_is_sent_again(pipeline: Any) -> None:
    script = Script(bad(429, **{"Retry-After": "0"}))
    pipeline(script)("Anna")
    assert len(script.requests) == 2


def test_a_document_that_is_refused_is_an_error_or_left_out_as_the_error_handler_says(pipeline: Any) -> None:
    nlp = pipeline(refusing("b"))
    with pytest.raises(TextsRefused, match="too strange"):
        list(nlp.pipe(["a", "b", "c"]))
    with pytest.raises(TextsRefused, match="too strange"):
        nlp("b")
    left_out: list[tuple[str, list[str]]] = []
    nlp.set_error_handler(lambda name, component, docs, error: left_out.append((name, [doc.text for doc in docs])))
    assert [doc.text for doc in nlp.pipe(["a", "b", "c"])] == ["a", "c"]
    assert left_out == [("early_exit_ner", ["b"])]


def test_a_service_that_cannot_be_asked_is_told_clearly_and_loses_no_document() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("early_exit_ner", config={"url": "http://127.0.0.1:1"})
    with pytest.raises(ServerLost, match=r"no answer from http://127\.0\.0\.1:1/ner: .*; start a server"):
        nlp("Anna")
    nlp.set_error_handler(lambda *_: None)
    with pytest.raises(ServerLost, match="start a server"):
        list(nlp.pipe(["Anna"]))


@pytest.mark.parametrize(
    ("config", "said"),
    [({"url": "nowhere"}, "'nowhere'"), ({"alignment_mode": "shrink"}, "alignment_mode"), ({"key": "x"}, "unexpected")],
)
def test_a_configuration_that_does_not_fit_is_refused_when_the_pipeline_is_made(
    config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        spacy.blank("en").add_pipe("early_exit_ner", config=config)


# with a server that listens, where packages and processes matter

API_KEY = "the-api-key"


@pytest.fixture
def url(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that needs a key, which the environment has."""
    monkeypatch.setenv("NER_API_KEY", API_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(tiny_service(model_folder, tmp_path / "state", api_key=API_KEY)) as url:
        yield url


def test_a_saved_pipeline_is_loaded_with_its_configuration_and_without_the_key(url: str, tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("early_exit_ner", config={"url": url, "spans_key": "all"})
    nlp.to_disk(tmp_path / "saved")
    doc = spacy.load(tmp_path / "saved")(ENTITY_TEXT)
    assert doc.spans["all"] and ents(doc) == ents(nlp(ENTITY_TEXT))
    assert API_KEY not in (tmp_path / "saved" / "config.cfg").read_text()


def test_processes_that_are_forked_from_one_that_has_asked_ask_for_themselves(url: str) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("early_exit_ner", config={"url": url})
    alone = ents(nlp(ENTITY_TEXT))
    assert alone
    assert [ents(doc) for doc in nlp.pipe([ENTITY_TEXT] * 8, n_process=2, batch_size=2)] == [alone] * 8


def test_installed_from_their_folders_the_packages_are_found_typed_and_of_the_services_version(
    url: str, tmp_path: Path
) -> None:
    installed = install_clients(tmp_path)
    assert all((installed / name / "py.typed").is_file() for name in ("ner_client", "ner_spacy"))
    code = f"""
import sys; sys.path.insert(0, "installed")
import ner_client, spacy
nlp = spacy.blank("en")
nlp.add_pipe("early_exit_ner", config={{"url": {url!r}}})  # nobody has imported ner_spacy: spaCy finds it
import ner_spacy
print(ner_client.__file__, ner_client.__version__, ner_spacy.__version__, len(nlp({ENTITY_TEXT!r}).ents) > 0)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, *said = run.stdout.split()
    assert (tmp_path / file).is_relative_to(installed)
    assert said == [__version__, __version__, "True"]
