"""POST /ner: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.api.bodies import MOST_PARTS
from service.api.state import Service
from service.spans.types import Entity
from tests.api.servers_ import ENTITY_TEXT, TINY_LABELS
from tests.models_ import TEXTS, WORDS

Start = Callable[..., TestClient]
Build = Callable[..., Service]
FULL_DEPTH = {"strategy": "full_depth"}
FIRST_LAYER = {"strategy": "budgeted", "layer": 1}
STAGES = ["tokenize", "queue", "inference", "decode", "total"]
PARAGRAPH = " ".join(TEXTS)


def answer(client: TestClient, **request: Any) -> dict[str, Any]:
    """The body of a request that succeeds."""
    response = client.post("/ner", json=request)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def refusal(client: TestClient, status: int, **request: Any) -> str:
    """The message of a request that is refused with `status`."""
    response = client.post("/ner", json=request)
    assert response.status_code == status, response.text
    return str(response.json()["error"])


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what differs from call to call."""
    return {name: value for name, value in result.items() if name != "timing_ms"}


def test_a_result_has_exactly_the_fields_of_the_wire(client: TestClient) -> None:
    result = answer(client, text=ENTITY_TEXT)
    assert list(result) == [
        *("entities", "exit_layer", "num_layers", "sequences", "policy_version", "model", "timing_ms"),
    ]
    assert result["entities"]
    assert all(list(entity) == ["start", "end", "text", "label", "score"] for entity in result["entities"])
    assert [list(sequence) for sequence in result["sequences"]] == [["start", "end", "exit_layer", "exit_reason"]]
    assert list(result["timing_ms"]) == STAGES
    assert (result["num_layers"], result["policy_version"], result["model"]) == (4, 1, "tiny@1")


def test_the_stages_of_a_request_add_up_to_its_total(client: TestClient) -> None:
    *stages, total = answer(client, text=PARAGRAPH)["timing_ms"].values()
    assert sum(stages) == pytest.approx(total, abs=0.01)


def test_several_texts_get_the_answers_that_each_gets_alone(client: TestClient) -> None:
    together = answer(client, texts=list(TEXTS))["results"]
    alone = [answer(client, text=text) for text in TEXTS]
    for entity in (entity for result in alone for entity in result["entities"]):
        entity["score"] = pytest.approx(entity["score"], abs=2e-6)  # how a step is packed may move the last digit
    assert [without_times(result) for result in together] == [without_times(result) for result in alone]


def test_no_texts_have_no_results(client: TestClient) -> None:
    assert answer(client, texts=[]) == {"results": []}


@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0\u3000", "\u200b"])
def test_a_blank_text_has_nothing_and_leaves_before_the_first_layer(client: TestClient, text: str) -> None:
    result = answer(client, text=text)
    assert (result["entities"], result["sequences"], result["exit_layer"]) == ([], [], 0)
    assert without_times(answer(client, texts=["Ben met Carla.", text])["results"][1]) == without_times(result)


@pytest.mark.parametrize("request_", [{}, {"text": "a", "texts": ["a"]}, {"text": None}, {"labels": ["PER"]}])
def test_text_and_texts_are_asked_for_one_at_a_time(client: TestClient, request_: dict[str, Any]) -> None:
    assert "exactly one of text (a string) and texts" in refusal(client, 422, **request_)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 7),
        ("texts", "a"),
        ("labels", "PER"),
        ("min_score", "high"),
        ("min_score", 1.5),
        ("timeout_ms", 0),
        ("timeout_ms", 12.5),
        ("split", "yes"),
        ("trace", 1),
        ("exit_policy", "fast"),
        ("theshold", 0.5),
    ],
)
def test_what_does_not_fit_is_refused_by_field_and_value(client: TestClient, field: str, value: object) -> None:
    message = refusal(client, 422, **{"text": "a", field: value})
    assert message.startswith(f"{field}: ")
    assert repr(value) in message


def test_of_many_fields_that_do_not_fit_a_few_are_named(client: TestClient) -> None:
    wrong = {"labels": 1, "min_score": "a", "timeout_ms": 0, "split": "a", "trace": 1, "exit_policy": 1, "x": 1}
    assert refusal(client, 422, text="a", **wrong).count("; given ") == 5


def test_the_index_of_a_bad_text_is_named(client: TestClient) -> None:
    assert refusal(client, 422, texts=["a", "b", 3]).startswith("texts.2: ")


@pytest.mark.parametrize(
    "body", [b"{", b'{"text": "a",}', b"\xff", (b"[" * MOST_PARTS).ljust(100_000), b'{"text": "a"} x']
)
def test_a_body_that_is_not_json_is_a_400(client: TestClient, body: bytes) -> None:
    response = client.post("/ner", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error_type"]) == (400, "NotJSON")


@pytest.mark.parametrize("body", ["null", "[]", "7", ""])
def test_json_that_is_no_object_is_a_422(client: TestClient, body: str) -> None:
    response = client.post("/ner", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_without_the_json_content_type_is_told_which_header_to_send(
    client: TestClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = client.post("/ner", content='{"text": "a"}', headers=headers)
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (r'{"text": "a\ud800"}', "text: "),
        (r'{"texts": ["a", "\udfff b"]}', "texts.1: "),
        (r'{"text": "a", "labels": ["\ud800"]}', "labels: "),
        (r'{"text": "a", "\ud800": 1}', ""),
        (r'{"text": "a", "exit_policy": {"\ud800": 1}}', ""),
    ],
)
def test_half_a_surrogate_pair_is_a_422(client: TestClient, body: str, where: str) -> None:
    response = client.post("/ner", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    assert response.json()["error"].startswith(where)
    assert "Content-Type" not in response.json()["error"]


def test_a_whole_surrogate_pair_is_one_character(client: TestClient) -> None:
    body = r'{"text": "\ud83d\ude00", "exit_policy": {"strategy": "full_depth"}}'
    response = client.post("/ner", content=body, headers={"Content-Type": "application/json"})
    assert [(sequence["start"], sequence["end"]) for sequence in response.json()["sequences"]] == [(0, 1)]


def test_labels_keep_entities_of_these_labels_alone(client: TestClient) -> None:
    everything = answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER)["entities"]
    assert len({entity["label"] for entity in everything}) > 1
    for label in TINY_LABELS:
        kept = answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER, labels=[label])["entities"]
        assert kept == [entity for entity in everything if entity["label"] == label]
    assert answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER, labels=[])["entities"] == []


def test_an_unknown_label_is_refused_with_the_labels_there_are(client: TestClient) -> None:
    message = refusal(client, 422, text="a", labels=["PER", "PERSON"])
    assert "PERSON" in message
    assert "LOC, ORG, PER" in message


def test_min_score_keeps_entities_at_least_this_probable(client: TestClient) -> None:
    everything = answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER)["entities"]
    cut = sorted(entity["score"] for entity in everything)[len(everything) // 2] - 1e-6
    kept = answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER, min_score=cut)["entities"]
    assert 0 < len(kept) < len(everything)
    assert kept == [entity for entity in everything if entity["score"] >= cut]


def test_an_entity_of_just_min_score_is_kept(build: Build, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = build()
    found = [Entity(0, 4, "PER", 0.5), Entity(9, 12, "PER", 0.25)]
    monkeypatch.setattr(service.text_encoder, "entities", lambda encoded, spans: found)
    client = start(service)
    kept = {cut: answer(client, text="Anna met Ben", min_score=cut)["entities"] for cut in (0.25, 0.5, 0.75)}
    assert {cut: [entity["text"] for entity in of_cut] for cut, of_cut in kept.items()} == {
        0.25: ["Anna", "Ben"],
        0.5: ["Anna"],
        0.75: [],
    }


def test_entities_come_by_start_and_the_longer_first(client: TestClient) -> None:
    entities = answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER)["entities"]
    places = [(entity["start"], -entity["end"]) for entity in entities]
    assert len(places) > 3
    assert places == sorted(places)


def test_a_text_is_split_into_sentences_unless_split_is_false(client: TestClient) -> None:
    assert len(answer(client, text=PARAGRAPH)["sequences"]) == len(TEXTS)
    whole = answer(client, text=PARAGRAPH, split=False)["sequences"]
    assert [(sequence["start"], sequence["end"]) for sequence in whole] == [(0, len(PARAGRAPH))]


def test_the_exit_layer_of_a_text_is_its_deepest_sequences(client: TestClient) -> None:
    result = answer(client, text=PARAGRAPH, exit_policy={"tau": -0.0348})
    layers = [sequence["exit_layer"] for sequence in result["sequences"]]
    assert len(set(layers)) > 1
    assert result["exit_layer"] == max(layers)


def test_a_trace_tells_of_every_layer_that_ran(client: TestClient) -> None:
    result = answer(client, text=ENTITY_TEXT, trace=True, exit_policy={"tau": -0.02})
    (sequence,) = result["sequences"]
    assert sequence["exit_layer"] > 1
    fields = ["layer", "consistency", "votes", "entropy_mean", "entropy_max", "evidence", "entities"]
    assert [list(item) for item in sequence["trace"]] == [fields] * sequence["exit_layer"]
    assert [item["layer"] for item in sequence["trace"]] == list(range(1, sequence["exit_layer"] + 1))
    assert [len(item["consistency"]) for item in sequence["trace"]] == list(range(sequence["exit_layer"]))
    for item in sequence["trace"]:
        assert item["votes"] == sum(consistency > -0.02 for consistency in item["consistency"])


def test_a_trace_names_the_policy_that_decided(client: TestClient) -> None:
    in_force = answer(client, text=ENTITY_TEXT, trace=True)["exit_policy"]
    assert client.get("/exit-policy").json().items() >= in_force.items()
    assert answer(client, text=ENTITY_TEXT, trace=True, exit_policy={"patience": 2})["exit_policy"] == {
        **in_force,
        "patience": 2,
    }


def test_a_trace_changes_nothing_else(client: TestClient) -> None:
    plain, traced = answer(client, text=PARAGRAPH), answer(client, text=PARAGRAPH, trace=True)
    del traced["exit_policy"]
    for sequence in traced["sequences"]:
        del sequence["trace"]
    assert without_times(traced) == without_times(plain)


def test_a_traced_layers_entities_are_what_leaving_there_would_answer(client: TestClient) -> None:
    (sequence,) = answer(client, text=ENTITY_TEXT, trace=True, exit_policy=FULL_DEPTH)["sequences"]
    for item in sequence["trace"]:
        at_layer = {"strategy": "budgeted", "layer": item["layer"]}
        left_there = answer(client, text=ENTITY_TEXT, exit_policy=at_layer)["entities"]
        places = [(entity["start"], entity["end"], entity["label"]) for entity in left_there]
        assert sorted((entity["start"], entity["end"], entity["label"]) for entity in item["entities"]) == sorted(
            places
        )


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_a_budget_for_one_request_leaves_at_its_layer(client: TestClient, layer: int) -> None:
    result = answer(client, text=PARAGRAPH, exit_policy={"strategy": "budgeted", "layer": layer})
    reason = "budget" if layer < 4 else "last_layer"
    assert result["exit_layer"] == layer
    assert {(s["exit_layer"], s["exit_reason"]) for s in result["sequences"]} == {(layer, reason)}
    assert result["policy_version"] == 1


def test_a_policy_for_one_request_changes_no_other(client: TestClient) -> None:
    before = without_times(answer(client, text=PARAGRAPH))
    assert answer(client, text=PARAGRAPH, exit_policy=FIRST_LAYER)["exit_layer"] != before["exit_layer"]
    assert without_times(answer(client, text=PARAGRAPH)) == before
    assert client.get("/exit-policy").json()["version"] == 1


def test_a_parameter_for_one_request_is_merged_into_the_live_policy(client: TestClient) -> None:
    loose = answer(client, text=PARAGRAPH, exit_policy={"tau": -1.0})
    assert {sequence["exit_reason"] for sequence in loose["sequences"]} == {"vote"}
    assert loose["exit_layer"] == 2  # the earliest that one vote can come


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"preset": "fast"}, "preset"),
        ({"speedup": 2.0}, "speedup"),
        ({"max_f1_loss": 1.0}, "max_f1_loss"),
        ({"rollback_to": 1}, "rollback_to"),
        ({"version": 1}, "version"),
        ({"tau": "low"}, "tau"),
        ({"tau": 0.5}, "tau"),
        ({"patience": 0}, "patience"),
        ({"patience": 1.5}, "patience"),
        ({"measure": "l2"}, "measure"),
        ({"strategy": "magic"}, "strategy"),
        ({"strategy": {}}, "strategy"),
        ({"layer": 1}, "layer"),
        ({"strategy": "budgeted", "layer": 5}, "layer"),
        ({"strategy": "budgeted", "layer": True}, "layer"),
    ],
)
def test_an_override_that_cannot_be_is_refused_by_name(
    client: TestClient, override: dict[str, Any], named: str
) -> None:
    assert named in refusal(client, 422, text="a", exit_policy=override)


def test_a_large_body_of_very_many_parts_is_refused_and_brackets_in_a_text_are_none(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    text = json.dumps({"text": '\\" ' + "[{" * (MOST_PARTS // 2) + "["}).encode().ljust(70_000)
    assert client.post("/ner", content=text, headers=headers).status_code == 200
    parts = json.dumps({"text": "Anna", "x": [[]] * MOST_PARTS}).encode()
    response = client.post("/ner", content=parts, headers=headers)
    assert (response.status_code, response.json()["error_type"]) == (422, "BadInput")
    assert f"{MOST_PARTS + 2} lists and objects; expected at most {MOST_PARTS}" in response.json()["error"]


@pytest.mark.parametrize("padding", [0, 70_000])  # a large body is parsed elsewhere, where it may be nested deeper
@pytest.mark.parametrize("name", ["tau", "strategy", "measure"])
def test_an_override_that_is_nested_as_deep_as_json_can_be_is_refused(
    client: TestClient, name: str, padding: int
) -> None:
    for depth in range(930, 990, 3):
        nested = "[" * depth + "]" * depth
        body = f'{{"text": "a", "exit_policy": {{"{name}": {nested}}}}}{" " * padding}'
        answered = client.post("/ner", content=body, headers={"Content-Type": "application/json"})
        assert answered.status_code in (400, 422), depth


def test_a_tau_beyond_every_float_is_refused(client: TestClient) -> None:
    assert "tau" in refusal(client, 422, text="a", exit_policy={"tau": -(10**400)})


def test_the_answer_carries_its_policy_version_and_its_times_as_headers(client: TestClient) -> None:
    response = client.post("/ner", json={"text": ENTITY_TEXT})
    times = re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"])
    assert {name: float(value) for name, value in times} == response.json()["timing_ms"]
    assert response.headers["X-Exit-Policy-Version"] == "1"


@pytest.mark.parametrize("request_id", ["a", "3f2c-11:b", "x" * 128])
def test_a_request_id_that_is_given_is_echoed(client: TestClient, request_id: str) -> None:
    response = client.post("/ner", json={"text": "a"}, headers={"X-Request-Id": request_id})
    assert response.headers.get_list("X-Request-Id") == [request_id]


@pytest.mark.parametrize("request_id", [None, "", "x" * 129, "a b", "a\tb", "a\x1b[2J", "é"])
def test_a_request_id_that_is_missing_or_unfit_is_made(client: TestClient, request_id: str | None) -> None:
    headers = {} if request_id is None else {b"X-Request-Id": request_id.encode("latin-1")}
    made = [client.post("/ner", json={"text": "a"}, headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert made[0] != made[1]


_GLUE = st.sampled_from([" ", ", ", ". ", "", "\n", "\r\n", "\u00a0", "\u200d", "\u0301", "\x00", "\ufeff"])
_PARTS = st.one_of(st.sampled_from([*WORDS, "北京", "😀", "e\u0301", "ﬁ", "İ"]), st.text(max_size=4))
_TEXTS = st.lists(st.tuples(_PARTS, _GLUE), max_size=12).map(lambda parts: "".join(map("".join, parts)))


@settings(deadline=None, derandomize=True)
@given(text=_TEXTS, layer=st.integers(1, 4), split=st.booleans())
def test_an_entitys_offsets_cut_its_text_out_of_what_was_sent(
    client: TestClient, text: str, layer: int, split: bool
) -> None:
    result = answer(client, text=text, split=split, exit_policy={"strategy": "budgeted", "layer": layer})
    for entity in result["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"] != ""
        assert entity["label"] in TINY_LABELS
        assert 0 < entity["score"] <= 1
    bounds = [(sequence["start"], sequence["end"]) for sequence in result["sequences"]]
    assert all(0 <= start < end <= len(text) for start, end in bounds)
    assert bounds == sorted(bounds)
