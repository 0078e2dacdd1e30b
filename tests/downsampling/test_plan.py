"""Which coarser mags a layer gets: as webknossos 4.3 plans them for the same layers."""

from __future__ import annotations

import pytest

from magd.downsampling.kernels import Method
from magd.downsampling.plan import SamplingMode, check_chain, coarser_mags, default_method
from magd.errors import InvalidRequest
from magd.geometry import ORIGIN, BoundingBox, Mag, Vec3
from magd.properties.model import LayerCategory, VoxelSize

CASES = [
    # edges of a voxel, size of the layer, coarser mags: anisotropic
    ((1, 1, 1), (1000, 1000, 1000), "2 4 8 16"),
    ((1, 1, 1), (101, 101, 101), "2 4"),
    ((1, 1, 1), (401, 100, 30), "2 4 8"),
    ((11.24, 11.24, 28), (4096, 4096, 1024), "2-2-1 4-4-2 8-8-4 16-16-8 32-32-16 64-64-32"),
    ((4, 4, 40), (4000, 4000, 500), "2-2-1 4-4-1 8-8-1 16-16-2 32-32-4 64-64-8"),
    ((4, 4, 40), (300, 300, 5), "2-2-1 4-4-1"),
    ((10, 20, 40), (3000, 3000, 3000), "2-1-1 4-2-1 8-4-2 16-8-4 32-16-8"),
    ((1, 1, 1.4), (3000, 3000, 3000), "2 4 8 16 32"),
    ((1, 1, 1.5), (3000, 3000, 3000), "2-2-1 4-4-2 8-8-4 16-16-8 32-32-16"),
    ((1, 2, 3), (800, 900, 1000), "2-1-1 4-2-1 8-4-2 16-8-4"),
    ((40, 4, 4), (500, 4000, 4000), "1-2-2 1-4-4 1-8-8 2-16-16 4-32-32 8-64-64"),
    ((3, 1, 1), (2000, 2000, 2000), "1-2-2 1-4-4 2-8-8 4-16-16 8-32-32"),
    ((1, 1, 2.83), (2000, 2000, 2000), "2-2-1 4-4-1 8-8-2 16-16-4 32-32-8"),
    ((1, 1, 2.82), (2000, 2000, 2000), "2-2-1 4-4-2 8-8-4 16-16-8 32-32-16"),
]


def names(
    edges: tuple[float, float, float],
    size: tuple[int, int, int],
    mode: SamplingMode,
    coarsest: str | None = None,
    source: str = "1",
) -> str:
    box = BoundingBox(ORIGIN, Vec3(*size))
    limit = None if coarsest is None else Mag.of(coarsest)
    return " ".join(mag.name for mag in coarser_mags(Mag.of(source), VoxelSize(*edges, "nm"), box, mode, limit))


@pytest.mark.parametrize(("edges", "size", "expected"), CASES)
def test_an_anisotropic_layer_becomes_isotropic(
    edges: tuple[float, float, float], size: tuple[int, int, int], expected: str
) -> None:
    assert names(edges, size, SamplingMode.ANISOTROPIC) == expected


def test_the_other_sampling_modes_do_not_look_at_the_voxel_size() -> None:
    assert names((4, 4, 40), (300, 300, 5), SamplingMode.ISOTROPIC) == "2 4"
    assert names((4, 4, 40), (401, 30, 5), SamplingMode.CONSTANT_Z) == "2-2-1 4-4-1 8-8-1"


def test_no_factor_gets_above_that_of_the_coarsest_mag() -> None:
    size = (4096, 4096, 1024)
    assert names((11.24, 11.24, 28), size, SamplingMode.ANISOTROPIC, "4") == "2-2-1 4-4-2"
    assert names((11.24, 11.24, 28), size, SamplingMode.ANISOTROPIC, "8") == "2-2-1 4-4-2 8-8-4"
    assert names((1, 1, 1), size, SamplingMode.ANISOTROPIC, "4-4-2") == "2 4-4-2"
    assert names((1, 1, 1), size, SamplingMode.ANISOTROPIC, "2", source="4") == ""


def test_a_coarser_source_goes_on_from_itself() -> None:
    assert names((11.24, 11.24, 28), (800, 800, 800), SamplingMode.ANISOTROPIC, source="2-2-1") == "4-4-2 8-8-4"


@pytest.mark.parametrize(("source", "targets"), [("2", "1"), ("1", "1"), ("1", "2 2"), ("2-2-1", "4-1-1"), ("1", "32")])
def test_mags_that_cannot_be_made_from_the_one_before_are_refused(source: str, targets: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_chain(Mag.of(source), [Mag.of(target) for target in targets.split()])
    assert refused.value.metadata["field"] == "target_mags"


def test_mags_that_can_be_made_are_not() -> None:
    check_chain(Mag.of(1), [Mag.of(mag) for mag in ("2-2-1", "4", "64")])


def test_segments_are_never_mixed_by_default() -> None:
    assert default_method(LayerCategory.SEGMENTATION) is Method.MODE
    assert default_method(LayerCategory.COLOR) is Method.MEDIAN
