"""Presidio's analyzer on top of the spaCy component, set up by its YAML: names by the model, the rest by rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ner_spacy  # noqa: F401 # registers the component
import pytest
import spacy
from presidio_analyzer import AnalyzerEngine, AnalyzerEngineProvider, BatchAnalyzerEngine

from tests.api.servers_ import ENTITY_TEXT, PROJECT, listening, tiny_service
from tests.docs.pages_ import Page

# Presidio's own words on its own default configuration, which has no recognizer of names until it adds one
pytestmark = pytest.mark.filterwarnings("ignore:NLP recognizer .* is not in the list of recognizers:UserWarning")
CARD = "4095-2609-9393-4932"
TEXT = f"{ENTITY_TEXT} My credit card is {CARD}."


@pytest.fixture(scope="module")
def analyzer(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalyzerEngine]:
    """Made of the YAML that docs/clients.md shows, in a folder with the pipeline that it names."""
    folder = tmp_path_factory.mktemp("presidio")
    (yaml,) = [block.text for block in Page(PROJECT / "docs" / "clients.md").blocks if block.language == "yaml"]
    (name,) = re.findall(r"model_name: (\S+)", yaml)
    (folder / "nlp.yaml").write_text(yaml, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, listening(tiny_service(model_folder, folder / "state")) as url:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.chdir(folder)
        nlp = spacy.blank("en")
        nlp.add_pipe("early_exit_ner", config={"url": url})
        nlp.to_disk(name)
        yield AnalyzerEngineProvider(nlp_engine_conf_file=folder / "nlp.yaml").create_engine()


def found(analyzer: AnalyzerEngine, text: str) -> set[tuple[str, str]]:
    """The types and texts that it finds."""
    return {(one.entity_type, text[one.start : one.end]) for one in analyzer.analyze(text, "en")}


def test_it_finds_the_models_entities_and_card_numbers(analyzer: AnalyzerEngine) -> None:
    doc = analyzer.nlp_engine.nlp["en"](TEXT)
    names = {"PER": "PERSON", "LOC": "LOCATION", "ORG": "ORGANIZATION"}
    assert doc.ents
    assert found(analyzer, TEXT) >= {("CREDIT_CARD", CARD), *((names[one.label_], one.text) for one in doc.ents)}


def test_a_batch_is_analyzed_as_text_by_text(analyzer: AnalyzerEngine) -> None:
    texts = [TEXT, "", ENTITY_TEXT]
    batch = BatchAnalyzerEngine(analyzer).analyze_iterator(texts, "en")
    spans = [
        {(one.entity_type, text[one.start : one.end]) for one in each} for text, each in zip(texts, batch, strict=True)
    ]
    assert spans == [found(analyzer, text) for text in texts]


def test_it_says_that_it_supports_what_the_model_finds(analyzer: AnalyzerEngine) -> None:
    assert {"PERSON", "LOCATION", "ORGANIZATION", "NRP", "CREDIT_CARD"} <= set(analyzer.get_supported_entities("en"))
