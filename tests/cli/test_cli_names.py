"""Names as people type them."""

from __future__ import annotations

import pytest

from magd.cli.names import Target, parse, short
from magd.geometry import Mag


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cortex", Target("cortex")),
        ("cortex/", Target("cortex")),
        ("cortex/color", Target("cortex", "color")),
        ("cortex/color/1", Target("cortex", "color", Mag.of(1))),
        ("cortex/color/2-2-1", Target("cortex", "color", Mag.of((2, 2, 1)))),
        ("cortex/color/2-2-2", Target("cortex", "color", Mag.of(2))),
        ("datasets/cortex", Target("cortex")),
        ("datasets/cortex/layers/color", Target("cortex", "color")),
        ("datasets/cortex/layers/color/mags/4-4-2", Target("cortex", "color", Mag.of((4, 4, 2)))),
        ("datasets", Target("datasets")),
        ("datasets/layers/1", Target("datasets", "layers", Mag.of(1))),
    ],
)
def test_short_and_full_names_mean_the_same(text: str, target: Target) -> None:
    assert parse(text) == target
    assert parse(target.resource) == target


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/b/c", "a/b/3", "a/b/1/x", "datasets/a/layers/b/mags/0"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def test_a_full_name_is_shown_short_and_anything_else_as_it_is() -> None:
    assert short("datasets/cortex/layers/color/mags/2-2-1") == "cortex/color/2-2-1"
    assert short("datasets/cortex/layers/color/mags/2-2-2") == "cortex/color/2"
    assert short("operations/a/b/c") == "operations/a/b/c"


def test_a_target_says_what_it_is() -> None:
    assert [parse(text).kind for text in ("a", "a/b", "a/b/1")] == ["dataset", "layer", "mag"]
