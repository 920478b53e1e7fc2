"""What the tags of a token classifier mean, for every scheme; and those of which it cannot be told."""

from __future__ import annotations

import pytest

from service.errors import ModelRefused
from service.models.tags import Tag, TagScheme


@pytest.mark.parametrize(
    ("names", "labels", "tags"),
    [
        (["O", "B-PER", "I-PER", "B-LOC"], ("LOC", "PER"), [(0, 0), (2, 1), (2, 0), (1, 1)]),
        (["B-PER", "I-PER", "O"], ("PER",), [(1, 1), (1, 0), (0, 0)]),  # label 0 need not be the first tag
        (["O", "B-PER", "I-PER", "E-PER", "S-PER"], ("PER",), [(0, 0), (1, 1), (1, 0), (1, 0), (1, 1)]),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], ("PER",), [(0, 0), (1, 1), (1, 0), (1, 0), (1, 1)]),
        (["O", "B-PER", "M-PER", "E-PER", "S-PER"], ("PER",), [(0, 0), (1, 1), (1, 0), (1, 0), (1, 1)]),
        (["O", "I-PER", "I-LOC"], ("LOC", "PER"), [(0, 0), (2, 0), (1, 0)]),
        (["O", "PER", "LOC"], ("LOC", "PER"), [(0, 0), (2, 0), (1, 0)]),
        (["none", "PER"], ("PER",), [(0, 0), (1, 0)]),
        (["OTHER", "B_PER", "I_PER"], ("PER",), [(0, 0), (1, 1), (1, 0)]),  # the one without a prefix
        (["O", "B-work-of-art", "I-work-of-art"], ("work-of-art",), [(0, 0), (1, 1), (1, 0)]),
        (["O", "E-MAIL", "PHONE"], ("E-MAIL", "PHONE"), [(0, 0), (1, 0), (2, 0)]),  # E- is no prefix without B- or I-
        (["O", "B-PER", "I-PER", "O"], ("PER",), [(0, 0), (1, 1), (1, 0), (0, 0)]),  # such as one for special pieces
    ],
    ids=str,
)
def test_tags_say_where_an_entity_of_which_label_begins(
    names: list[str], labels: tuple[str, ...], tags: list[tuple[int, int]]
) -> None:
    scheme = TagScheme.read(names)
    assert (scheme.labels, scheme.tags) == (labels, tuple(Tag(label, bool(begins)) for label, begins in tags))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["LABEL_0", "LABEL_1"], r"'LABEL_0', 'LABEL_1' .* have no names"),
        (["PER", "LOC"], "none that means no entity"),
        (["I-PER", "I-LOC"], "none that means no entity"),
        (["O"], "name no label"),
        (["O", "B-PER", "I-PER", "X", "[CLS]"], "'X' .* have no prefix, and others have one"),
        (["O", "PER-B", "PER-I"], "'PER-B', 'PER-I' .* end with a prefix"),
    ],
    ids=str,
)
def test_tags_of_which_nothing_can_be_told_are_refused_by_name(names: list[str], message: str) -> None:
    with pytest.raises(ModelRefused, match=message) as refused:
        TagScheme.read(names)
    assert "id2label in its config.json" in str(refused.value)


def test_every_scheme_has_names_that_a_pipeline_groups_as_they_are_meant() -> None:
    scheme = TagScheme.read(["B-PER", "I-PER", "E-PER", "S-PER", "O"])
    assert scheme.names == ("B-PER", "I-PER", "I-PER", "B-PER", "O")
    assert TagScheme.read(["O", "PER-SON"]).names == ("O", "I-PER-SON")
    assert TagScheme.read(scheme.names) == scheme


def test_labels_that_are_not_wanted_mean_no_entity() -> None:
    scheme = TagScheme.read(["O", "B-LOC", "I-LOC", "B-ORG", "B-PER"]).of_labels(["PER", "LOC"])
    assert scheme.labels == ("PER", "LOC")
    assert scheme.tags == (Tag(0, False), Tag(2, True), Tag(2, False), Tag(0, False), Tag(1, True))


def test_a_label_that_no_tag_has_is_refused_by_name() -> None:
    with pytest.raises(ModelRefused, match=r"no tags of \['GPE'\]; its labels are \['LOC'\]"):
        TagScheme.read(["O", "B-LOC"]).of_labels(["LOC", "GPE"])
