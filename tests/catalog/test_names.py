"""Names of resources: what is read, what is refused, and that refusals stay small."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magd.catalog.names import (
    DatasetName,
    LayerName,
    MagName,
    check_existing_name,
    check_new_name,
    parse_resource,
)
from magd.errors import InvalidRequest, Reason
from magd.geometry import Mag


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("datasets/a", DatasetName("a")),
        ("datasets/ä b%2F/layers/c:d", LayerName("ä b%2F", "c:d")),
        ("datasets/a/layers/b/mags/2-2-1", MagName("a", "b", Mag.of("2-2-1"))),
        ("datasets/mags/layers/layers/mags/4", MagName("mags", "layers", Mag.of(4))),
    ],
)
def test_a_name_is_read_and_written(text: str, name: Any) -> None:
    kind: Any = type(name)
    assert kind.parse(text) == name
    assert parse_resource(text) == name
    assert str(name) == text


def test_a_mag_has_its_short_name() -> None:
    name = MagName.parse("datasets/a/layers/b/mags/2-2-2")
    assert str(name) == "datasets/a/layers/b/mags/2"
    assert name.layer_name == LayerName("a", "b")
    assert name.dataset_name == name.layer_name.dataset_name == DatasetName("a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "datasets",
        "datasets/",
        "datasets//",
        "/datasets/a",
        "datasets/a/",
        "layers/a",
        "datasets/..",
        "datasets/.",
        "datasets/.hidden",
        "datasets/a\0b",
        "datasets/\ud800",
        "datasets/" + "x" * 256,
        "datasets/" + "ä" * 128,
        "datasets/a/layers/",
        "datasets/a/layers/..",
        "datasets/../layers/a",
        "datasets/a/mags/1",
        "datasets/a/layers/b/mags/",
        "datasets/a/layers/b/mags/3",
        "datasets/a/layers/b/mags/0",
        "datasets/a/layers/b/mags/1-1",
        "datasets/a/layers/b/mags/-1",
        "datasets/a/layers/b/mags/²",
        "datasets/a/layers/b/mags/" + "9" * 5000,
        "datasets/a/layers/b/mags/1/more",
        "x" * 10_000,
    ],
)
def test_a_text_that_is_no_name_is_refused_with_field_and_shortened_value(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_resource(text, field="parent")
    error = caught.value
    assert error.reason is Reason.INVALID_NAME
    assert error.metadata["field"] == "parent"
    assert len(error.metadata["value"]) <= 80
    assert len(error.message) < 400
    # It travels in HTTP/2 trailers.
    error.message.encode()


@pytest.mark.parametrize("kind", [DatasetName, LayerName, MagName])
def test_each_kind_reads_only_its_own(kind: Any) -> None:
    texts: dict[Any, str] = {
        DatasetName: "datasets/a",
        LayerName: "datasets/a/layers/b",
        MagName: "datasets/a/layers/b/mags/1",
    }
    for other, text in texts.items():
        if other is kind:
            kind.parse(text)
        else:
            with pytest.raises(InvalidRequest):
                kind.parse(text)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60))
def test_whatever_can_exist_on_disk_makes_the_way_there_and_back(value: str) -> None:
    if value.startswith("."):
        with pytest.raises(InvalidRequest):
            check_existing_name("f", value)
        return
    check_existing_name("f", value)
    assert DatasetName.parse(str(DatasetName(value))) == DatasetName(value)


@pytest.mark.parametrize("value", ["a", "A-b_c.d", "$x@y", "-", "0", "a.", "x" * 255])
def test_a_new_name_of_the_alphabet_is_taken(value: str) -> None:
    check_new_name("dataset_id", value)
    check_existing_name("dataset_id", value)


@pytest.mark.parametrize(
    "value", ["", ".a", "..", "a/b", "a b", "ä", "a\n", "a\0", "x" * 256, "x" * 10_000, "a:b", "\ud800"]
)
def test_a_new_name_outside_of_the_alphabet_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_new_name("dataset_id", value)
    assert caught.value.reason is Reason.INVALID_NAME
    assert caught.value.metadata["field"] == "dataset_id"
    assert len(caught.value.metadata["value"]) <= 80
