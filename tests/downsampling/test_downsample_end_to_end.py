"""The whole way: a dataset of webknossos, a daemon, the client and the command line; webknossos is the oracle."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

import magd_client
from magd.cli.main import cli
from magd.errors import AlreadyExists, InvalidRequest
from magd.geometry import BoundingBox, Mag, Vec3

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from tests.conftest import Serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it misses image readers, and its dependencies use what is deprecated
    wk: Any = importlib.import_module("webknossos")
    cluster_tools: Any = importlib.import_module("cluster_tools")

ANISOTROPIC, ISOTROPIC = (11.24, 11.24, 28.0), (10.0, 10.0, 10.0)
OFFSET = (3, 8, 1)


def make_dataset(folder: Path, voxel_size: tuple[float, float, float], category: str, data: npt.NDArray[Any]) -> None:
    """A dataset with one layer and mag 1, which webknossos writes."""
    dataset = wk.Dataset(folder, voxel_size=voxel_size)
    more = {"largest_segment_id": 9} if category == "segmentation" else {}
    layer = dataset.add_layer(
        "volume",
        category,
        data_format="wkw",
        dtype=data.dtype,
        num_channels=data.shape[0],
        bounding_box=wk.BoundingBox(OFFSET, data.shape[1:]),
        **more,
    )
    layer.add_mag(1, chunk_shape=32, shard_shape=32, compress=False).write(data, absolute_offset=OFFSET)


def volume(dtype: str, highest: int, channels: int = 1) -> npt.NDArray[Any]:
    generator = np.random.default_rng(7)
    return generator.integers(0, highest, size=(channels, 53, 40, 31)).astype(dtype)


@pytest.mark.filterwarnings("ignore:.INFO. Downsampling uses the numpy implementation")
@pytest.mark.parametrize("voxel_size", [ANISOTROPIC, ISOTROPIC])
@pytest.mark.parametrize(
    ("category", "method", "data"),
    [
        ("color", "median", volume("uint8", 250)),
        ("color", "median", volume("int16", 900) - 400),
        ("color", "median", volume("uint8", 250, channels=3)),
        ("segmentation", "mode", volume("uint32", 4)),
    ],
)
def test_the_coarser_mags_are_those_of_webknossos(
    tmp_path: Path,
    serve: Serve,
    voxel_size: tuple[float, float, float],
    category: str,
    method: str,
    data: npt.NDArray[Any],
) -> None:
    make_dataset(tmp_path / "root" / "ours", voxel_size, category, data)
    make_dataset(tmp_path / "theirs", voxel_size, category, data)
    with cluster_tools.get_executor("sequential") as executor:
        wk.Dataset.open(tmp_path / "theirs").get_layer("volume").downsample(
            interpolation_mode=method, compress=False, executor=executor
        )
    daemon = serve(tmp_path / "root")
    with magd_client.connect(daemon.grpc) as client:
        layer = client.dataset("ours").layer("volume")
        layer.downsample().wait(timeout=60)
        box = layer.get_bounding_box()
        layer.flush()
    assert (box.offset, box.size) == (Vec3(*OFFSET), Vec3(*data.shape[1:]))
    theirs = wk.Dataset.open(tmp_path / "theirs").get_layer("volume")
    ours = wk.Dataset.open(tmp_path / "root" / "ours").get_layer("volume")
    assert sorted(map(str, ours.mags)) == sorted(map(str, theirs.mags))
    for mag, view in theirs.mags.items():
        coarse = BoundingBox(Vec3(*OFFSET), Vec3(*data.shape[1:])).in_mag(Mag.of(tuple(mag)))
        # webknossos counts in mag-1 voxels.
        place = {"absolute_offset": tuple(coarse.offset * Vec3(*mag)), "size": tuple(coarse.size * Vec3(*mag))}
        expected = view.read(**place)
        got = ours.get_mag(mag).read(**place)
        np.testing.assert_array_equal(got, expected, err_msg=str(mag))


def test_an_update_after_a_write_is_as_good_as_making_all_anew(tmp_path: Path, serve: Serve) -> None:
    make_dataset(tmp_path / "root" / "ours", ANISOTROPIC, "color", volume("uint8", 250))
    daemon = serve(tmp_path / "root")
    with magd_client.connect(daemon.grpc) as client:
        layer = client.dataset("ours").layer("volume")
        layer.downsample(["2-2-1", "4-4-2"], method="mean").wait(timeout=60)
        mag = layer.mag(1)
        before = mag.get_info().revision
        mag.write(np.full((9, 9, 9), 251, dtype="uint8"), offset=(10, 10, 10))
        layer.downsample(update=True, method="mean", changed_since=before).wait(timeout=60)
        mag.write(np.full((3, 3, 3), 17, dtype="uint8"), offset=(30, 30, 20))
        region = BoundingBox(Vec3(30, 30, 20), Vec3(3, 3, 3))
        layer.downsample(update=True, method="mean", region=region).wait(timeout=60)
        updated = {name: layer.mag(name).read() for name in ("2-2-1", "4-4-2")}
        for name in updated:
            layer.mag(name).delete()
        layer.downsample(["2-2-1", "4-4-2"], method="mean").wait(timeout=60)
        for name, data in updated.items():
            np.testing.assert_array_equal(layer.mag(name).read(), data)
        assert (updated["2-2-1"] == 251).sum() == 4 * 4 * 9
        with pytest.raises(AlreadyExists):
            layer.downsample(["2-2-1"])
        with pytest.raises(InvalidRequest):
            layer.downsample(method="most")  # type: ignore[arg-type]  # what it refuses


def test_the_command_line_builds_and_updates(tmp_path: Path, serve: Serve) -> None:
    make_dataset(tmp_path / "root" / "ours", ANISOTROPIC, "color", volume("uint8", 250))
    daemon = serve(tmp_path / "root")

    def magd(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli, [*arguments, "--server", daemon.grpc], prog_name="magd")
        assert result.exit_code == status, result.output
        return result.output

    assert "downsampled ours/volume" in magd("downsample", "ours/volume", "2-2-1", "4-4-2", "--method", "nearest")
    with magd_client.connect(daemon.grpc) as client:
        layer = client.dataset("ours").layer("volume")
        layer.mag(1).write(np.full((4, 4, 4), 3, dtype="uint8"), offset=(20, 20, 20))
        magd(
            "downsample", "ours/volume", "--method", "nearest", "--update", "--region", "20", "20", "20", "4", "4", "4"
        )
        assert (layer.mag("4-4-2").read(offset=(5, 5, 10), size=(1, 1, 2)) == 3).all()
    magd("downsample", "ours/volume", "2-2-1", status=1)
    magd("downsample", "ours/volume", "--region", "0", "0", "0", "4", "4", "4", status=2)
