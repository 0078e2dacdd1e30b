"""The overlay against a numpy array: later entries lie over earlier ones; dropping what was applied changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from magd.geometry import Box, Vec3
from magd.journal.overlay import Entry, Overlay

EDGE = 8

boxes = st.builds(
    lambda o, s: Box(Vec3.of(o), Vec3.of(s)),
    st.tuples(*[st.integers(0, EDGE - 1)] * 3),
    st.tuples(*[st.integers(1, 4)] * 3),
)


def filled(box: Box, value: int) -> Entry:
    return Entry(box, np.full((2, *box.size), value, dtype="uint8", order="F"), None)


@given(written=st.lists(boxes, max_size=8), applied=st.integers(0, 8), wanted=boxes)
def test_files_and_overlay_together_hold_what_was_committed(written: list[Box], applied: int, wanted: Box) -> None:
    model = np.zeros((2, 12, 12, 12), dtype="uint8", order="F")
    files = model.copy()
    overlay = Overlay()
    for value, box in enumerate(written, start=1):
        overlay.add(filled(box, value))
        model[(slice(None), *(slice(a, b) for a, b in zip(box.offset, box.end, strict=True)))] = value
    whole = Box.of((0, 0, 0), (12, 12, 12))
    done = overlay.all()[:applied]
    for entry in done:
        entry.paint(files, whole)
    overlay.drop(done)
    assert len(overlay) == len(written) - len(done)
    assert overlay.size_bytes == sum(box.volume * 2 for box in written[applied:])
    place = (slice(None), *(slice(a, b) for a, b in zip(wanted.offset, wanted.end, strict=True)))
    seen = np.asfortranarray(files[place])
    for entry in overlay.touching(wanted):
        entry.paint(seen, wanted)
    assert np.array_equal(seen, model[place])


def test_only_entries_that_share_a_voxel_touch_a_box() -> None:
    overlay = Overlay()
    near, far = filled(Box.of((0, 0, 0), (2, 2, 2)), 1), filled(Box.of((2, 0, 0), (2, 2, 2)), 2)
    overlay.add(near)
    overlay.add(far)
    assert overlay.touching(Box.of((1, 1, 1), (1, 1, 1))) == (near,)
    assert overlay.touching(Box.of((1, 1, 1), (2, 1, 1))) == (near, far)
    assert overlay.boxes() == (near.box, far.box)
