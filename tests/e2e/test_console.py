"""The console in a browser, on the shipped models: what a reader sees, at the width of a phone and of a desk."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests import added_strategy_
from tests.added_strategy_ import copy_with_strategy
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, PROJECT, ServerProcess
from tests.e2e.browser_ import DESKTOP, PHONE, Visit, chromium

Serve = Callable[..., str]
Go = Callable[..., Visit]
FLAT, NESTED, BY_WORD = "conll2003-minilm", "litbank-minilm", "conll2003-minilm-tokee"
NEWS = "Angela Merkel met Barack Obama in Berlin. Deutsche Bank and Credit Suisse First Boston sold a bank in Zurich."
FICTION = "The captain of the ship walked to the old house by the river."
ASTRAL = "🚀👩🏽‍🚀 In Berlin 🗼 Ange\u0301la Merkel 🇫🇷 met Zoe\u0308 Mu\u0308ller of Siemens 𝒳 in New York."
MARKUP = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script> Angela Merkel & 'Berlin' <b>bold</b>"
at_both_widths = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
STRATEGIES = ["vee", "gated_vote", "pabee", "sentee", "branchynet", "shallow_deep", "budgeted", "full_depth"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a server of settings -> its URL; the same settings give the same server."""
    with ExitStack() as stack:
        urls: dict[tuple[tuple[str, str], ...], str] = {}

        def serve(model: str = FLAT, **settings: str) -> str:
            key = (("model", model), *sorted(settings.items()))
            if key not in urls:
                folder: Path = tmp_path_factory.mktemp("server")
                fixed = {"NER_STATE_DIR": str(folder / "state"), "NER_ADMIN_KEY": ADMIN_KEY, "NER_DRAIN_S": "0"}
                process = ServerProcess(folder, NER_MODEL=model, **fixed, **settings)
                stack.callback(process.kill)
                urls[key] = process.wait_ready()
            return urls[key]

        yield serve


@pytest.fixture
def go(browser: Browser, serve: Serve) -> Iterator[Go]:
    """Visit the console of a server. Afterwards: nothing complained, and nothing was asked of another host."""
    visits: list[Visit] = []

    def go(model: str = FLAT, *, settings: dict[str, str] | None = None, **options: Any) -> Visit:
        visits.append(Visit(browser, f"{serve(model, **(settings or {}))}/", **options))
        return visits[-1]

    yield go
    for visit in visits:
        visit.close()
        assert visit.complaints == []
        assert visit.hosts == {urlsplit(visit.url).netloc}


@pytest.fixture
def api(serve: Serve) -> Iterator[httpx.Client]:
    """The flat model's server as an administrator's client has it; its policy is put back afterwards."""
    with httpx.Client(base_url=serve(), headers=AS_ADMIN, timeout=60, trust_env=False) as client:
        yield client
        client.patch("/exit-policy", json={"preset": "balanced"}).raise_for_status()


def answer(url: str, text: str, **request: Any) -> dict[str, Any]:
    """What POST /ner says, with its trace."""
    response = httpx.post(f"{url}ner", json={"text": text, "trace": True, **request}, timeout=60, trust_env=False)
    result: dict[str, Any] = response.raise_for_status().json()
    return result


def entities_shown(visit: Visit) -> list[tuple[str, str]]:
    """Text and label of every entity that is marked, in text order, outer ones first."""
    read = """marks => marks.map(mark => {
      const own = [...mark.children].findLast(child => child.className === 'tag').textContent.trim();
      const bare = mark.cloneNode(true);
      bare.querySelectorAll('.tag').forEach(tag => tag.remove());
      return [bare.textContent, own];
    })"""
    found = visit.page.locator("#reading mark").evaluate_all(read)
    return [(text, label) for text, label in found]


def entities_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entity["text"], entity["label"]) for entity in result["entities"]]


def tab_to(page: Page, wanted: str) -> Locator:
    """Press Tab until the element of an id has the focus."""
    for _ in range(80):
        if page.evaluate("document.activeElement.id") == wanted:
            return page.locator(f"#{wanted}")
        page.keyboard.press("Tab")
    raise LookupError(f"no way to #{wanted} by Tab")


# ---- the answer


@at_both_widths
def test_the_page_begins_with_an_answer(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    result = answer(visit.url, visit.page.input_value("#text"))
    assert len(result["entities"]) >= 5
    assert entities_shown(visit) == entities_of(result)
    expect(visit.page.locator("#summary")).to_contain_text(f"{len(result['entities'])} entities; left at layer")


@at_both_widths
def test_a_text_is_answered_as_it_is_typed(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    visit.page.fill("#text", "")
    expect(visit.page.locator("#answer")).to_be_hidden()
    visit.page.locator("#text").press_sequentially("Angela Merkel met Barack Obama in Berlin.")
    expect(visit.page.locator("#reading mark")).to_have_count(3)
    assert entities_shown(visit) == [("Angela Merkel", "PER"), ("Barack Obama", "PER"), ("Berlin", "LOC")]


@pytest.mark.parametrize("again", ["click", "Control+Enter", "Meta+Enter"])
def test_the_same_text_can_be_asked_again(go: Go, again: str) -> None:
    visit = go().open()
    with visit.page.expect_response("**/ner") as response:
        if again == "click":
            visit.page.get_by_role("button", name="Find entities").click()
        else:
            visit.page.locator("#text").press(again)
    assert response.value.json()["entities"]


def test_the_answer_to_the_latest_text_wins_however_late_an_earlier_one_comes(go: Go) -> None:
    visit = go().open()
    late: list[Route] = []
    visit.page.route("**/ner", lambda route: late.append(route), times=1)
    with visit.page.expect_request("**/ner"):
        visit.page.fill("#text", "Barack Obama")
    visit.ask("Angela Merkel met Barack Obama in Berlin.")
    expect(visit.page.locator("#reading mark")).to_have_count(3)
    late[0].fulfill(json=answer(visit.url, "Barack Obama"))
    visit.page.evaluate("fetch('livez').then(response => response.text())")  # whatever came before has been dealt with
    expect(visit.page.locator("#reading mark")).to_have_count(3)


@at_both_widths
def test_nested_entities_are_drawn_nested(go: Go, size: tuple[int, int]) -> None:
    visit = go(NESTED, size=size).open()
    visit.ask(FICTION)
    captain = visit.page.locator("#reading > mark", has_text="captain")
    expect(captain.locator("mark")).to_contain_text("the ship")
    assert entities_shown(visit) == entities_of(answer(visit.url, FICTION))
    outer, inner = captain.bounding_box(), captain.locator("mark").bounding_box()
    assert outer is not None and inner is not None
    assert outer["y"] < inner["y"] and outer["y"] + outer["height"] > inner["y"] + inner["height"]


@at_both_widths
def test_offsets_are_code_points_beside_emoji_and_combining_characters(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    visit.ask(ASTRAL)
    result = answer(visit.url, ASTRAL)
    assert {"Berlin", "Ange\u0301la Merkel", "New York"} < {text for text, _ in entities_of(result)}
    assert entities_shown(visit) == entities_of(result)
    assert ASTRAL in visit.page.locator("#reading").evaluate(
        "node => { const bare = node.cloneNode(true);"
        " bare.querySelectorAll('.tag, .stop').forEach(tag => tag.remove()); return bare.textContent }"
    )


def test_a_text_of_markup_stays_text(go: Go) -> None:
    visit = go().open()
    visit.ask(MARKUP)
    expect(visit.page.locator("#reading")).to_contain_text("<script>window.hit=1</script>")
    expect(visit.page.locator(".quote").first).to_contain_text("<img src=x")
    assert visit.page.locator("main img, main script, main b").count() == 0
    assert visit.page.evaluate("window.hit") is None


def test_a_blank_text_is_no_error(go: Go) -> None:
    visit = go().open()
    visit.page.fill("#text", " \n ")
    expect(visit.page.locator("#answer")).to_be_hidden()
    expect(visit.page.locator("#ladders-section")).to_be_hidden()
    expect(visit.page.locator("#error")).to_be_hidden()


def test_a_preview_without_a_text_says_so(go: Go) -> None:
    visit = go().open()
    visit.page.fill("#text", "")
    expect(visit.page.locator("#answer")).to_be_hidden()
    visit.page.get_by_role("button", name="fast").click()
    expect(visit.page.locator("#effect")).to_have_text("A preview, of no text yet.")


def test_half_a_surrogate_pair_is_refused_in_the_servers_words(go: Go) -> None:
    visit = go().open()
    visit.page.evaluate("text.value = 'Berlin \\ud83d'")
    visit.page.click("#run")
    expect(visit.page.locator("#error")).to_contain_text("half of a surrogate pair at character 7")


def test_a_long_text_waits_to_be_asked_for_and_draws_its_ladders_in_parts(go: Go) -> None:
    visit = go().open()
    visit.page.fill("#text", "Angela Merkel met Barack Obama in Berlin. " * 140)
    with visit.page.expect_response("**/ner"):
        visit.page.click("#run")
    expect(visit.page.locator("#reading .stop")).to_have_count(140)
    expect(visit.page.locator(".sentence")).to_have_count(12)
    visit.page.click("#more")
    expect(visit.page.locator(".sentence")).to_have_count(24)
    expect(visit.page.locator("#more")).to_have_text("Show 12 more of 116 sentences")


# ---- the ladders


@at_both_widths
def test_a_ladder_has_a_rung_for_every_layer_that_ran_and_says_why_it_left(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    visit.ask(NEWS)
    result = answer(visit.url, NEWS)
    ladders = visit.page.locator(".sentence")
    expect(ladders).to_have_count(2)
    for index, sequence in enumerate(result["sequences"]):
        ladder, left = ladders.nth(index), sequence["exit_layer"]
        expect(ladder.get_by_role("heading")).to_have_text(f"Sentence {index + 1} left at layer {left} of 6")
        assert ladder.locator(".rung .node").all_inner_texts() == [str(layer) for layer in range(1, left + 1)]
        expect(ladder.locator(".rung.exit .node")).to_have_text(str(left))
        expect(ladder.locator(".why")).to_contain_text(
            "The worth of going on, a score of what it may mend for its work, was"
        )
        assert ladder.locator(".nodes i").count() == 6 - left


def test_what_the_learned_rule_saw_is_drawn_against_its_threshold(go: Go) -> None:
    visit = go().open()
    visit.ask(NEWS)
    result = answer(visit.url, NEWS)
    tau = result["exit_policy"]["tau"]
    for index, sequence in enumerate(result["sequences"]):
        worths = [item["evidence"][0] for item in sequence["trace"]]
        ladder = visit.page.locator(".sentence").nth(index)
        assert [float(note) for note in ladder.locator(".note").all_inner_texts()] == pytest.approx(worths, rel=0.01)
        line = ladder.locator(".rung .tau").first.bounding_box()
        dots = [dot.bounding_box() for dot in ladder.locator(".dot").all()]
        assert line is not None
        beyond = [dot is not None and dot["x"] + dot["width"] / 2 > line["x"] for dot in dots]
        assert beyond == [worth < tau for worth in worths]
        assert beyond == [False] * (len(worths) - 1) + [True]


@at_both_widths
def test_votes_are_ticked_cells_and_dots_beyond_tau(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    visit.ask(NEWS)
    visit.preview(strategy="vee")
    result = answer(visit.url, NEWS, exit_policy={"strategy": "vee"})
    expect(visit.page.locator(".sentence .why").first).to_contain_text("agreed with it by more than τ")
    for index, sequence in enumerate(result["sequences"]):
        rungs = visit.page.locator(".sentence").nth(index).locator(".rung")
        for rung, item in zip(rungs.all(), sequence["trace"], strict=True):
            assert rung.locator(".cells i").count() == rung.locator(".dot").count() == item["layer"] - 1
            assert rung.locator(".cells .vote").count() == rung.locator(".dot.passes").count() == item["votes"]


def test_entities_appear_and_change_from_layer_to_layer(go: Go) -> None:
    visit = go(NESTED).open()
    text = "Captain Ahab stood on the deck of the Pequod, while the crew of the whaling ship watched Nantucket."
    visit.ask(text)
    visit.preview(strategy="full_depth")
    trace = answer(visit.url, text, exit_policy={"strategy": "full_depth"})["sequences"][0]["trace"]
    cells = visit.page.locator(".rung .found")
    assert cells.nth(0).locator(".chip").count() == len(trace[0]["entities"])
    for before, item, cell in zip(trace, trace[1:], cells.all()[1:], strict=False):
        places = [{(e["start"], e["end"]): e["label"] for e in one["entities"]} for one in (before, item)]
        old, new = places
        changed = [place for place in old.keys() & new.keys() if old[place] != new[place]]
        assert cell.locator(".chip").count() == len(old.keys() ^ new.keys()) + len(changed)
    assert visit.page.locator(".rung .chip").count() > len(trace[0]["entities"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_shown_and_fits_a_phone(go: Go, strategy: str) -> None:
    visit = go(size=PHONE).open()
    visit.ask(NEWS)
    visit.preview(strategy=strategy)
    result = answer(visit.url, NEWS, exit_policy={"strategy": strategy})
    left = [f"Sentence {n} left at layer {s['exit_layer']} of 6" for n, s in enumerate(result["sequences"], 1)]
    expect(visit.page.locator(".sentence h3")).to_have_text(left)
    assert "undefined" not in visit.page.inner_text("main") and "NaN" not in visit.page.inner_text("main")
    assert visit.overflow_px() == 0


@at_both_widths
def test_where_words_halt_one_by_one_each_shows_how_deep_it_went(go: Go, size: tuple[int, int]) -> None:
    visit = go(BY_WORD, size=size).open()
    visit.ask(NEWS)
    visit.preview(strategy="tokee")
    result = answer(visit.url, NEWS, exit_policy={"strategy": "tokee"})
    words = [word for sequence in result["sequences"] for word in sequence["word_layers"]]
    shown = visit.page.locator(".depths .word")
    expect(shown).to_have_count(len(words))
    titles = [f"{NEWS[word['start'] : word['end']]}: layer {word['layer']}" for word in words]
    assert shown.evaluate_all("words => words.map(word => word.title)") == titles
    widths = shown.evaluate_all("words => words.map(word => word.querySelector('i').offsetWidth / word.offsetWidth)")
    for width, word in zip(widths, words, strict=True):
        assert abs(width - word["layer"] / 6) < 0.15
    assert entities_shown(visit) == entities_of(result)
    assert visit.overflow_px() == 0


@pytest.mark.parametrize("strategy", ["tokee", "de3"])
def test_strategies_of_a_model_that_was_trained_for_them_are_offered_and_shown(go: Go, strategy: str) -> None:
    visit = go(BY_WORD, size=PHONE).open()
    visit.ask(NEWS)
    visit.preview(strategy=strategy)
    result = answer(visit.url, NEWS, exit_policy={"strategy": strategy})
    expect(visit.page.locator(".rung")).to_have_count(sum(s["exit_layer"] for s in result["sequences"]))
    assert visit.overflow_px() == 0


# ---- the policy: preview and apply


@at_both_widths
def test_the_slider_previews_on_this_text_and_changes_nothing(go: Go, api: httpx.Client, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    visit.ask(NEWS)
    before = api.get("/exit-policy").json()
    slider = visit.page.get_by_role("slider", name="Speed-up")
    expected = before["expected"]
    in_force = f"{expected['speedup_latency']:.2f}× full depth, {expected['f1_loss']} F1 lost"
    expect(slider).to_have_attribute("aria-valuetext", in_force)
    with visit.page.expect_response("**/ner"):
        slider.press("End")
    expect(visit.page.locator("#preview-note")).to_contain_text("A preview of budgeted, layer 1.")
    expect(visit.page.locator("#effect")).to_contain_text(re.compile(r"On this text: average layer \d\.\d → 1\.0; "))
    expect(visit.page.locator(".sentence h3").first).to_have_text("Sentence 1 left at layer 1 of 6")
    assert api.get("/exit-policy").json()["version"] == before["version"]
    visit.page.click("#discard")
    expect(visit.page.locator("#preview-note")).to_be_hidden()
    expect(slider).to_have_attribute("aria-valuetext", in_force)


def test_arrow_keys_go_from_one_calibrated_point_to_the_next(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    points = sorted(point["speedup_latency"] for point in api.get("/exit-policy/operating-points").json())
    slider = visit.page.locator("#speedup")
    slider.press("Home")
    for speedup in points[1:4]:
        slider.press("ArrowRight")
        expect(visit.page.locator("#speedup-said")).to_have_text(f"{speedup:.2f}× full depth")
    slider.press("ArrowLeft")
    expect(visit.page.locator("#speedup-said")).to_have_text(f"{points[2]:.2f}× full depth")


def test_what_is_previewed_is_what_the_service_answers(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    points = api.get("/exit-policy/operating-points").json()
    (fast,) = [point["parameters"] for point in points if point.get("preset") == "fast"]
    visit.ask(NEWS)
    visit.page.get_by_role("button", name="fast").click()
    expect(visit.page.locator("#preview-note")).to_be_visible()
    assert float(visit.page.input_value("#parameters .exact")) == fast["tau"]
    expected = answer(visit.url, NEWS, exit_policy=fast)
    assert entities_shown(visit) == entities_of(expected)


def test_patience_and_tau_have_sliders_where_the_strategy_has_them(go: Go) -> None:
    visit = go().open()
    visit.ask(NEWS)
    slider = visit.page.get_by_role("slider", name="Patience")
    expect(slider).to_have_count(0)
    visit.preview(strategy="vee")
    with visit.page.expect_response("**/ner"):
        slider.press("ArrowRight")
    expect(visit.page.locator(".sentence .note").first).to_have_text("0 of 2 votes")
    expect(slider).to_be_focused()
    with visit.page.expect_response("**/ner"):
        visit.page.get_by_role("slider", name="Threshold τ").press("End")  # every comparison is a vote
    expect(visit.page.locator(".sentence h3").first).to_have_text("Sentence 1 left at layer 3 of 6")


def test_after_the_deepest_exit_nothing_decides(go: Go) -> None:
    visit = go().open()
    visit.ask(NEWS)
    slider = visit.page.get_by_role("slider", name="Deepest exit")
    in_force = visit.page.request.get(f"{visit.url}exit-policy").json()
    expect(slider).to_have_value(str(in_force["deepest_exit"]))
    with visit.page.expect_response("**/ner"):
        slider.press("Home")
    expect(visit.page.locator("#preview-note")).to_contain_text("deepest exit 1")
    why = "All 6 layers ran: no layer at which it may leave came below τ"
    expect(visit.page.locator(".why").last).to_contain_text(why)
    last = visit.page.locator(".sentence").last
    assert [rung.locator(".dot").count() for rung in last.locator(".rung").all()] == [1, 0, 0, 0, 0, 0]


def test_another_measure_takes_its_calibrated_tau(go: Go) -> None:
    visit = go().open()
    visit.preview(strategy="vee")
    with visit.page.expect_response("**/ner") as response:
        visit.page.get_by_label("Measure").focus()
        visit.page.get_by_label("Measure").select_option("cosine")
    tau = response.value.json()["exit_policy"]["tau"]
    assert 0.9 < tau < 1
    expect(visit.page.get_by_label("Threshold τ, exactly")).to_have_value(str(tau))
    expect(visit.page.get_by_label("Measure")).to_be_focused()


def test_a_measure_offers_the_poolings_that_it_has(go: Go) -> None:
    visit = go().open()
    visit.preview(strategy="vee")
    pooling = visit.page.get_by_label("Pooling")
    expect(pooling.locator("option")).to_have_text(["max", "mean"])
    visit.preview(**{"parameter-measure": "entity_set"})
    expect(pooling.locator("option")).to_have_text(["mean"])


# ---- strategies as the server describes them: one that the console has never heard of

PARAMETER: dict[str, Any] = {
    "unit": "",
    **dict.fromkeys(("lowest", "highest", "step", "useful_highest", "scale", "ends")),
    "choices": [],
}


def parameter(name: str, kind: str, default: object, **others: object) -> dict[str, Any]:
    """A parameter as the server describes one."""
    return {**PARAMETER, "name": name, "kind": kind, "default": default, "meaning": f"what {name} means", **others}


NEWEST: dict[str, Any] = {
    "strategy": "newest_one",
    "title": "Newest",
    "origin": "nowhere yet",
    "meaning": "Leaves when a quorum of <b>heads</b> is surer than tau.",
    "lacks": None,
    "exit_reasons": ["quorum"],
    "is_replayable": True,
    "calibrated_by": ["mode"],
    "display": {
        "title": "Quorum",
        "shown": "evidence",
        "thresholds": ["tau"],
        "leaves": "above",
        "note": "{0}, {1|head}",
        "why": {"quorum": "{1|head} came to {0}, above τ = {tau}, in {mode}: {heads?one is enough:more were asked}."},
        "held": "no quorum of {heads|head}",
    },
    "parameters": [
        parameter("mode", "choice", "plain", choices=["plain", "fancy"]),
        parameter("tau", "number", 0.9987, unit="sureness", scale={"surest": 1.0, "farthest": 0.0, "is_even": False}),
        parameter("heads", "integer", 1, lowest=1, step=1, useful_highest=4, ends=["few", "many"]),
        parameter("rounds", "integer", 7, lowest=1, step=2),
        parameter("is_late", "flag", False),
    ],
    "variants": [],
}


def with_newest(visit: Visit) -> list[dict[str, Any]]:
    """Open the page as if the server had NEWEST -> the policies of NEWEST that it was asked for, as they come."""
    defaults = {one["name"]: one["default"] for one in NEWEST["parameters"]}
    asked: list[dict[str, Any]] = []

    def describe(route: Route) -> None:
        route.fulfill(json=[*route.fetch().json(), NEWEST])

    def recognise(route: Route) -> None:
        request = route.request.post_data_json
        if request.get("exit_policy", {}).get("strategy") != NEWEST["strategy"]:
            return route.continue_()
        asked.append(request["exit_policy"])
        result = answer(visit.url, request["text"], exit_policy={"strategy": "budgeted", "layer": 2})
        for sequence in result["sequences"]:
            sequence["exit_reason"] = "quorum"
            for item, evidence in zip(sequence["trace"], ([], [0.99912, 3]), strict=True):
                item["evidence"] = evidence
        return route.fulfill(json={**result, "exit_policy": {**defaults, **asked[-1]}})

    visit.page.route("**/exit-policy/strategies", describe)
    visit.page.route("**/ner", recognise)
    visit.open()
    visit.preview(strategy=NEWEST["strategy"])
    return asked


@at_both_widths
def test_a_new_strategy_is_offered_with_fields_for_its_parameters(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size)
    with_newest(visit)
    page = visit.page
    expect(page.locator("#strategy-hint")).to_have_text("Leaves when a quorum of <b>heads</b> is surer than τ.")
    expect(page.locator("#preview-note")).to_contain_text("newest one, plain, τ 0.9987, heads 1, rounds 7.")
    expect(page.get_by_label("Mode").locator("option")).to_have_text(["plain", "fancy"])
    expect(page.get_by_label("Threshold τ, exactly")).to_have_value("0.9987")
    tau, heads = (page.get_by_role("slider", name=name) for name in ("Threshold τ", "Heads"))
    expect(tau).to_have_accessible_description("what τ means (sureness) leaves later leaves earlier")
    expect(heads).to_have_accessible_description("what heads means few many")
    expect(heads).to_have_attribute("max", "4")
    expect(page.get_by_role("spinbutton", name="Rounds")).to_have_value("7")
    expect(page.get_by_role("spinbutton", name="Rounds")).to_have_attribute("step", "2")
    expect(page.get_by_role("checkbox", name="Is late")).to_have_accessible_description("what is_late means")
    expect(page.get_by_title("what rounds means")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    assert visit.overflow_px() == 0


def test_a_new_strategys_decisions_are_drawn_and_told(go: Go) -> None:
    visit = go()
    with_newest(visit)
    sentence = visit.page.locator(".sentence").first
    expect(sentence.locator(".why")).to_have_text("3 heads came to 0.99912, above τ = 0.9987, in plain: one is enough.")
    expect(sentence.locator("th.decision")).to_have_text("Quorumτ 0.9987")
    expect(sentence.locator(".note")).to_have_text(["", "0.99912, 3 heads"])
    assert [rung.locator(".tau").count() for rung in sentence.locator(".rung").all()] == [1, 1]
    expect(sentence.locator(".dot")).to_have_class("dot passes")
    expect(sentence.locator(".vote")).to_have_count(0)


def test_a_strategy_added_on_the_server_as_one_file_is_offered_drawn_and_told(browser: Browser, tmp_path: Path) -> None:
    project = copy_with_strategy(tmp_path / "project")
    settings = {"NER_MODEL": str(PROJECT / "model_store" / FLAT / "2"), "NER_ADMIN_KEY": ADMIN_KEY, "NER_DRAIN_S": "0"}
    server = ServerProcess(tmp_path, project=project, NER_STATE_DIR=str(tmp_path), NER_EXECUTOR="eager", **settings)
    try:
        visit = Visit(browser, f"{server.wait_ready()}/").open()
        visit.preview(strategy=added_strategy_.NAME)
        expect(visit.page.locator("#strategy-hint")).to_contain_text("from the earliest layer on")
        expect(visit.page.get_by_role("slider", name="Earliest")).to_have_attribute("max", "6")
        sentence = visit.page.locator(".sentence").first
        expect(sentence.locator("th.decision")).to_contain_text("Least certain of all")
        expect(sentence.locator(".why")).to_have_text(
            re.compile(r"^Its doubt .+ is below τ = .+, and 2 layers had to run")
        )
        expect(sentence.locator(".note").first).to_contain_text("it was ")
        visit.close()
        assert visit.complaints == []
    finally:
        server.kill()


def test_what_another_choice_calibrates_anew_is_left_to_the_server(go: Go) -> None:
    visit = go()
    asked = with_newest(visit)
    visit.preview(**{"parameter-rounds": "8"})
    visit.preview(**{"parameter-mode": "fancy"})
    others = {"strategy": NEWEST["strategy"], "heads": 1, "rounds": 8, "is_late": False}
    assert asked[-2:] == [{**others, "mode": "plain", "tau": 0.9987}, {**others, "mode": "fancy"}]


def test_a_strategy_that_the_model_does_not_support_says_what_it_needs(go: Go) -> None:
    visit = go().open()
    tokee = visit.page.locator("#strategy option[value=tokee]")
    expect(tokee).to_be_disabled()
    expect(tokee).to_have_attribute("title", re.compile("^needs a model trained with words that halt"))


def test_a_value_out_of_range_is_refused_in_the_servers_words(go: Go) -> None:
    visit = go().open()
    visit.preview(**{"parameters .exact": "-5"})
    expect(visit.page.locator("#error")).to_contain_text("tau is -5")
    expect(visit.page.locator("#error")).to_contain_text("expected a number from 0 to 1000")


@at_both_widths
def test_apply_with_the_admin_key_puts_the_preview_in_force(go: Go, api: httpx.Client, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    version = api.get("/exit-policy").json()["version"]
    visit.preview(strategy="vee")
    visit.page.fill("#admin-key", ADMIN_KEY)
    visit.page.click("#apply")
    expect(visit.page.locator("#policy-message")).to_contain_text(
        f"In force for every request, as version {version + 1}"
    )
    expect(visit.page.locator("#preview-note")).to_be_hidden()
    policy = api.get("/exit-policy").json()
    assert (policy["strategy"], policy["version"]) == ("vee", version + 1)
    assert api.get("/exit-policy/history").json()[0]["changed_by"] == "console"


def test_a_wrong_admin_key_is_refused_in_the_servers_words_and_can_be_put_right(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    visit.page.get_by_role("button", name="fast").click()
    for key in ("", "wrong", "clé-钥匙"):
        visit.page.fill("#admin-key", key)
        with visit.page.expect_response("**/exit-policy") as response:
            visit.page.click("#apply")
        assert response.value.status == 401
        expect(visit.page.locator("#policy-message")).to_contain_text("this call needs the admin key (NER_ADMIN_KEY)")
    assert api.get("/exit-policy").json()["preset"] == "balanced"
    visit.page.fill("#admin-key", f" {ADMIN_KEY} ")
    visit.page.click("#apply")
    expect(visit.page.locator("#in-force")).to_contain_text("in force: fast")


def test_who_was_outrun_is_told_and_may_apply_again(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    visit.preview(strategy="vee")
    api.patch("/exit-policy", json={"preset": "accurate"}).raise_for_status()
    expect(visit.page.locator("#in-force")).to_contain_text("in force: accurate")
    visit.page.fill("#admin-key", ADMIN_KEY)
    visit.page.click("#apply")
    expect(visit.page.locator("#policy-message")).to_contain_text("read the policy again and repeat the change")
    assert api.get("/exit-policy").json()["preset"] == "accurate"
    visit.page.click("#apply")
    expect(visit.page.locator("#policy-message")).to_contain_text("In force for every request")
    assert api.get("/exit-policy").json()["strategy"] == "vee"


def test_a_change_made_elsewhere_shows_by_itself(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    visit.ask(NEWS)
    api.patch("/exit-policy", json={"strategy": "budgeted", "layer": 4}).raise_for_status()
    expect(visit.page.locator(".sentence h3").first).to_have_text("Sentence 1 left at layer 4 of 6")
    expect(visit.page.locator("#in-force")).to_contain_text("in force: budgeted, layer 4")
    expect(visit.page.locator("#speedup-said")).to_have_text("not on the calibrated front")


def test_the_keys_stay_in_the_tab(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    visit.page.get_by_role("button", name="fast").click()
    visit.page.fill("#admin-key", ADMIN_KEY)
    visit.page.click("#apply")
    expect(visit.page.locator("#policy-message")).to_contain_text("In force")
    assert ADMIN_KEY in visit.page.evaluate("JSON.stringify(sessionStorage)")
    assert ADMIN_KEY not in visit.page.evaluate("JSON.stringify(localStorage) + document.cookie + location")
    expect(visit.page.locator("#admin-key")).to_have_attribute("type", "password")


def test_the_autopilot_shows_and_yields_to_what_is_applied(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    api.patch("/exit-policy", json={"autopilot": {"p95_ms": 100, "max_f1_loss": 1.0}}).raise_for_status()
    pilot = api.get("/exit-policy").json()["autopilot"]
    shown = visit.page.locator("#autopilot")
    expect(shown).to_contain_text("keeps p95 under 100 ms and loses at most 1 F1; it is at level ")
    expect(shown).to_contain_text(f" of {pilot['highest_level']}. Applying a policy here switches it off.")
    visit.preview(strategy="vee")
    visit.page.fill("#admin-key", ADMIN_KEY)
    visit.page.click("#apply")
    expect(shown).to_be_hidden()
    assert api.get("/exit-policy").json()["autopilot"] is None


def test_without_an_autopilot_or_a_promise_nothing_is_said_of_one(go: Go) -> None:
    visit = go().open()
    expect(visit.page.locator("#levels")).to_be_visible()
    expect(visit.page.locator("#autopilot")).to_be_hidden()
    expect(visit.page.locator("#promise")).to_be_hidden()


def test_a_promise_shows_and_yields_to_what_is_applied(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    api.patch("/exit-policy", json={"max_disagreement": 0.05}).raise_for_status()
    shown = visit.page.locator("#promise")
    expect(shown).to_contain_text("Promised: at most 0.05 F1 away from full depth, at a confidence of 0.95. 0 of ")
    expect(visit.page.locator("#strategy")).to_have_value("full_depth")
    visit.preview(strategy="vee")
    visit.page.fill("#admin-key", ADMIN_KEY)
    visit.page.click("#apply")
    expect(shown).to_be_hidden()
    assert api.get("/exit-policy").json()["promise"] is None


@at_both_widths
def test_every_level_shows_what_was_expected_and_what_was_measured(go: Go, size: tuple[int, int]) -> None:
    visit = go(settings={"NER_SAMPLE_FRACTION": "1"}, size=size).open()
    with httpx.Client(base_url=visit.url, timeout=60, trust_env=False) as client:
        points = client.get("exit-policy/operating-points").json()
    visit.page.get_by_text("Every level: expected, measured, certified").click()
    rows = visit.page.locator("#levels-rows tr")
    expect(rows).to_have_count(len(points))
    layer = rows.nth(0).locator("td").nth(1)
    expect(layer).to_have_text(re.compile(r"^1\.001\.00 – \d\.\d\d$"))  # the first exit's own point leaves nowhere else
    expect(rows.nth(0).locator("td").nth(0)).to_have_text(f"{points[0]['average_exit_layer']:.2f}")
    expect(visit.page.locator("#levels-note")).to_contain_text("samples of")
    assert visit.overflow_px() <= 0
    assert Axe().run(visit.page, options={}).violations_count == 0


def test_a_value_that_is_being_typed_is_left_alone(go: Go) -> None:
    visit = go().open()
    field = visit.page.get_by_label("Threshold τ, exactly")
    field.press("Control+A")
    field.press_sequentially("0.5")
    for _ in range(2):
        with visit.page.expect_response("**/exit-policy"):
            pass
    expect(field).to_have_value("0.5")
    field.press("Enter")
    expect(visit.page.locator("#preview-note")).to_contain_text("A preview of learned, τ 0.5")


# ---- keys of a guarded server


@at_both_widths
def test_a_guarded_server_asks_for_its_key_and_works_with_it(go: Go, size: tuple[int, int]) -> None:
    visit = go(settings={"NER_API_KEY": "an-api-key"}, size=size)
    visit.page.goto(visit.url)
    visit.page.get_by_label("This server asks for a key").fill("wrong")
    visit.page.get_by_role("button", name="Use it").click()
    expect(visit.page.locator("#key-message")).to_contain_text("this call needs the API key or the admin key")
    assert Axe().run(visit.page).violations_count == 0
    visit.page.get_by_label("This server asks for a key").fill("an-api-key")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#reading mark").first).to_be_visible()
    expect(visit.page.locator("#key-form")).to_be_hidden()


def test_an_api_key_where_the_admin_key_is_needed_is_refused_in_the_servers_words(go: Go) -> None:
    visit = go(settings={"NER_API_KEY": "an-api-key"})
    visit.page.goto(visit.url)
    visit.page.fill("#api-key", "an-api-key")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_role("button", name="fast").click()
    visit.page.fill("#admin-key", "an-api-key")
    visit.page.click("#apply")
    expect(visit.page.locator("#policy-message")).to_contain_text("an API key was given")


# ---- never the answer to another text


def no_answer(page: Page) -> None:
    for part in ("#answer", "#ladders-section"):
        expect(page.locator(part)).to_be_hidden()
    expect(page.locator("#reading mark, #legend li, #ladders article")).to_have_count(0)


def test_a_long_text_has_no_answer_until_it_is_asked_for(go: Go) -> None:
    page = go().open().page
    page.fill("#text", NEWS + " Angela Merkel met Barack Obama." * 200)
    no_answer(page)
    expect(page.locator("#text-hint")).to_contain_text("More than 5,000 characters are answered when you ask.")
    page.click("#run")
    expect(page.locator("#reading mark")).not_to_have_count(0)
    page.fill("#text", NEWS)
    expect(page.locator("#text-hint")).to_contain_text("Answers as you type.")
    expect(page.locator("#reading mark").first).to_have_text(re.compile("^Angela Merkel"))


def test_a_text_that_is_refused_has_no_answer(go: Go) -> None:
    page = go().open().page
    page.route("**/ner", lambda route: route.fulfill(status=422, json={"error": "not this one"}))
    page.fill("#text", "Berlin")
    expect(page.locator("#error")).to_have_text("not this one")
    no_answer(page)
    page.unroute("**/ner")
    page.click("#run")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#reading mark")).to_have_count(1)


# ---- in sight

every_window = pytest.mark.parametrize("size", [PHONE, DESKTOP, (1920, 1080), (1280, 640)], ids=str)


@every_window
def test_apply_is_in_sight_as_soon_as_there_is_something_to_apply(go: Go, size: tuple[int, int]) -> None:
    page = go(size=size).open().page
    with page.expect_response("**/ner"):
        page.click("[data-preset=fast]")
    for button in ("#apply", "#discard", "#admin-key"):
        expect(page.locator(button)).to_be_in_viewport(ratio=1)


@every_window
def test_what_has_the_focus_is_never_below_the_form_that_applies(go: Go, size: tuple[int, int]) -> None:
    page = go(size=size, reduced_motion="reduce").open().page
    with page.expect_response("**/ner"):
        page.click("[data-preset=fast]")
    tab_to(page, "speedup")
    read = """() => { const box = document.activeElement.getBoundingClientRect();
      const above = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      return document.activeElement.contains(above); }"""
    for _ in range(80):
        assert page.evaluate(read), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("document.activeElement.id") == "admin-key":
            return
        page.keyboard.press("Tab")
    raise LookupError("no way to #admin-key by Tab")


@every_window
def test_no_label_of_a_figure_lies_over_another(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    for figures in ("#live", "#expected"):
        visit.page.locator(f"{figures} .value").evaluate_all(
            "nodes => nodes.forEach(node => node.textContent = '1,234.5')"
        )
        boxes = visit.page.locator(f"{figures} dt, {figures} dd").evaluate_all(
            "nodes => nodes.map(node => { const range = document.createRange(); range.selectNodeContents(node);"
            " const box = range.getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]; })"
        )
        overlaps = [
            (one, other)
            for index, one in enumerate(boxes)
            for other in boxes[:index]
            if one[0] < other[1] and other[0] < one[1] and one[2] < other[3] - 3 and other[2] < one[3] - 3
        ]
        assert len(boxes) == 6 and overlaps == []


# ---- live


def test_the_live_figures_are_those_of_the_requests_in_between(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    api.patch("/exit-policy", json={"strategy": "budgeted", "layer": 2}).raise_for_status()
    texts = [f"{NEWS[:-1]} number {number}." for number in range(200)]  # equal ones would run once
    api.post("/ner", json={"texts": texts}).raise_for_status()
    layer, p95, rate = (visit.page.locator("#live .value").nth(index) for index in range(3))
    expect(layer).to_have_text(re.compile(r"^(1\.9\d|2\.0\d)$"))
    expect(p95).to_have_text(re.compile(r"^[\d.]+$"))
    expect(rate).to_have_text(re.compile(r"^0\.\d$"))


def test_no_requests_are_explained(go: Go) -> None:
    visit = go()
    metrics = httpx.get(f"{visit.url}metrics", trust_env=False).text
    visit.page.route("**/metrics", lambda route: route.fulfill(body=metrics))  # as if nobody asked anything
    visit.open()
    expect(visit.page.locator("#live-note")).to_have_text(re.compile(r"^no requests in the last \d+ s$"))
    expect(visit.page.locator("#live .value")).to_have_text(["–", "–", "0.0"])


def test_quantiles_and_differences_are_those_of_prometheus(go: Go) -> None:
    visit = go().open()
    found = visit.page.evaluate(
        """async () => {
          const { parseMetrics, quantile, between, History } = await import('/console/live.js');
          const said = (a, b, c) => ['0.1', '0.2', '+Inf']
            .map((le, i) => `ner_request_duration_seconds_bucket{le="${le}",model_name="m"} ${[a, b, c][i]}`)
            .concat(`ner_request_duration_seconds_count{model_name="m"} ${c}`).join('\\n');
          const read = (at, ...counts) => ({ at, ...parseMetrics('# HELP x y\\n' + said(...counts)) });
          const history = new History();
          history.add(read(0, 5, 5, 5));
          history.add(read(1, 1, 1, 1));
          return {
            p50: quantile(0.5, new Map([[0.1, 2], [0.2, 10], [Infinity, 10]])),
            beyond: quantile(0.95, new Map([[0.1, 2], [0.2, 5], [Infinity, 10]])),
            none: quantile(0.95, new Map([[0.1, 0], [Infinity, 0]])),
            grown: between(read(0, 10, 10, 10), read(4, 10, 30, 30)),
            restarted: history.readings.length,
          };
        }"""
    )
    assert (found["p50"], found["beyond"]) == (pytest.approx(0.1 + 0.1 * 3 / 8), 0.2)
    assert math.isnan(found["none"]) and math.isnan(found["grown"]["layer"])
    assert (found["grown"]["requests"], found["grown"]["perSecond"]) == (20, 5)
    assert found["grown"]["p95Ms"] == pytest.approx(195)
    assert found["restarted"] == 1


def test_a_server_that_is_gone_is_told_apart_from_one_that_refuses(go: Go) -> None:
    visit = go().open()
    visit.page.route("**/*", lambda route: route.abort())
    visit.page.click("#run")
    visit.page.fill("#text", "Berlin")
    expect(visit.page.locator("#error")).to_have_text("the server cannot be reached")
    expect(visit.page.locator("#live-note")).to_have_text("the server cannot be reached")
    expect(visit.page.locator("#answer")).to_be_hidden()  # it was of another text
    visit.page.unroute("**/*")
    expect(visit.page.locator("#live-note")).to_contain_text("requests in the last")
    expect(visit.page.locator("#error")).to_be_hidden()
    expect(visit.page.locator("#reading")).to_contain_text("Berlin")  # asked again, by itself
    visit.forgive_lost_connections()


def test_a_page_that_came_before_its_server_begins_by_itself(go: Go) -> None:
    visit = go()
    visit.page.route("**/models", lambda route: route.abort())
    visit.page.goto(visit.url)
    expect(visit.page.locator("#error")).to_have_text("the server cannot be reached")
    visit.page.unroute("**/models")
    expect(visit.page.locator("#reading mark").first).to_be_visible()
    expect(visit.page.locator("#error")).to_be_hidden()
    visit.forgive_lost_connections()


# ---- for everybody


def test_everything_can_be_done_from_the_keyboard(go: Go, api: httpx.Client) -> None:
    visit = go().open()
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    tab_to(page, "text")
    page.keyboard.press("Control+A")
    page.keyboard.type("Barack Obama visited Berlin.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#reading mark")).to_have_count(2)
    tab_to(page, "speedup")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("End")
    expect(page.locator("#preview-note")).to_contain_text("budgeted")
    tab_to(page, "admin-key")
    page.keyboard.type(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#in-force")).to_contain_text("budgeted")
    assert api.get("/exit-policy").json()["strategy"] == "budgeted"
    expect(page.locator("#strategy")).to_be_focused()  # what had the focus is gone


@pytest.mark.parametrize("scheme", ["light", "dark"])
@at_both_widths
def test_axe_finds_nothing_to_mend(go: Go, size: tuple[int, int], scheme: str) -> None:
    visit = go(NESTED, size=size, color_scheme=scheme).open()
    for strategy in ("learned", "vee", "gated_vote"):
        if strategy != "learned":
            visit.preview(strategy=strategy)
            expect(visit.page.locator("#preview-note")).to_be_visible()
        found = Axe().run(visit.page, options={})
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 30


@at_both_widths
def test_a_screen_reader_meets_names_and_a_table(go: Go, size: tuple[int, int]) -> None:
    visit = go(size=size).open()
    page = visit.page
    for name in ("Text", "Live", "Exit policy", "Why each sentence left where it did"):
        expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_be_visible()
    table = page.get_by_role("table", name="What every layer saw in sentence 1")
    assert table.get_by_role("row").count() >= 3
    expect(table.get_by_role("rowheader").first).to_have_text("1")
    expect(table.get_by_role("img", name=re.compile("^mean .*, largest ")).first).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("left at layer ., see why")).first).to_be_visible()


@pytest.mark.parametrize("width", [320, 390, 768, 901, 1280])
def test_no_width_scrolls_sideways(go: Go, width: int) -> None:
    visit = go(NESTED, size=(width, 844)).open()
    visit.ask(FICTION + " " + "Nantucket" * 30)
    visit.preview(strategy="vee")
    expect(visit.page.locator("#preview-note")).to_be_visible()
    assert visit.overflow_px() <= 0


def test_on_a_phone_the_text_comes_first_and_every_card_after_it_in_its_order(go: Go) -> None:
    page = go(size=PHONE).open().page
    expect(page.locator("#levels")).to_be_visible()
    cards = [page.locator(selector) for selector in (".text", ".live", ".policy", ".traffic", ".ladders")]
    tops = [box["y"] for card in cards if (box := card.bounding_box()) is not None]
    assert len(tops) >= 4 and tops == sorted(tops)


def brightness(page: Page) -> int:
    """Of the page's background: 0 to 765."""
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_the_page_is_dark_where_the_reader_prefers_it_or_says_so(go: Go) -> None:
    dark, light = go(color_scheme="dark").open().page, go(color_scheme="light").open().page
    assert brightness(dark) < 150 < 600 < brightness(light)
    light.get_by_role("button", name="Theme: auto").click()
    light.get_by_role("button", name="Theme: light").click()
    assert brightness(light) == brightness(dark)
    light.reload()
    expect(light.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert brightness(light) == brightness(dark)


def test_nothing_moves_for_readers_who_want_no_motion(go: Go) -> None:
    moving = go(reduced_motion="no-preference").open().page.locator(".dot").first
    still = go(reduced_motion="reduce").open().page.locator(".dot").first
    durations = [dot.evaluate("node => getComputedStyle(node).transitionDuration") for dot in (moving, still)]
    assert durations == ["0.18s, 0.18s", "0s"]


def test_the_examples_replace_the_text(go: Go) -> None:
    visit = go().open()
    with visit.page.expect_response("**/ner"):
        visit.page.get_by_role("button", name="Scripts").click()
    expect(visit.page.locator("#reading")).to_contain_text("👩🏽‍🚀")
    assert entities_shown(visit) == entities_of(answer(visit.url, visit.page.input_value("#text")))
