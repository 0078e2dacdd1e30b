"""The command line against a real daemon."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import tifffile
import wkw

from tests.support.daemon import MAGD, DaemonError

if TYPE_CHECKING:
    from tests.cli.conftest import Magd
    from tests.conftest import Serve
    from tests.support.daemon import Daemon
    from tests.support.data import SampleMag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def daemon(serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon that commands find without --server."""
    daemon = serve(root)
    monkeypatch.setenv("MAGD_SERVER", daemon.grpc)
    return daemon


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 200, size=shape).astype(dtype)


@pytest.mark.usefixtures("daemon")
def test_a_dataset_from_its_creation_to_the_trash(magd: Magd, root: Path) -> None:
    assert magd("ls").out == ""
    magd("create", "cortex", "--voxel-size", "11.24,11.24,28")
    magd("create", "cortex/color", "--dtype", "uint16", "--channels", "2")
    magd("create", "cortex/color/2-2-1", "--block-len", "8", "--file-len", "2", "--compressed")
    magd("create", "datasets/cortex/layers/color/mags/1", "--file-len", "4")

    assert magd("ls", "--json").json() == [
        {"name": "cortex", "voxel_size": [11.24, 11.24, 28.0], "unit": "nanometer", "unserved_reason": None}
    ]
    assert "cortex" in magd("ls").out
    (layer,) = magd("ls", "cortex", "--json").json()
    assert (layer["name"], layer["dtype"], layer["num_channels"]) == ("cortex/color", "uint16", 2)
    assert [mag["name"] for mag in layer["mags"]] == ["cortex/color/1", "cortex/color/2-2-1"]
    mag = magd("info", "cortex/color/2-2-1", "--json").json()
    assert (mag["block_len"], mag["file_len"], mag["compressed"]) == (8, 2, True)
    assert magd("info", "cortex", "--json").json()["layers"] == [layer]
    for name in ("cortex", "cortex/color", "cortex/color/1"):
        assert name.rpartition("/")[2] in magd("info", name).out

    assert "renamed cortex/color to cortex/em" in magd("rename", "cortex/color", "cortex/em").out
    assert (root / "cortex" / "em" / "1" / "header.wkw").exists()
    refused = magd("rm", "cortex/em/1", stdin="n\n", fails=1)
    assert refused.err.endswith("magd: error: nothing was changed [CANCELLED]\n")
    assert (root / "cortex" / "em" / "1").exists()
    assert "to the trash?" in magd("rm", "cortex/em/1", stdin="y\n").err
    trash = magd("rm", "cortex", "--yes", "--json").json()["trash_path"]
    assert (root / trash / "datasource-properties.json").exists()
    assert magd("ls", "--json").json() == []


@pytest.mark.usefixtures("daemon")
def test_parents_are_created_where_they_are_missing(magd: Magd) -> None:
    magd("create", "-p", "brain/ids/1", "--voxel-size", "4,4,40", "--category", "segmentation", "--dtype", "uint32")
    magd("create", "-p", "brain/ids/2")
    magd("create", "-p", "brain/ids/2", "--exist-ok")
    (layer,) = magd("ls", "brain", "--json").json()
    assert layer["category"] == "segmentation"
    assert [mag["mag"] for mag in layer["mags"]] == ["1", "2"]
    assert "--voxel-size" in magd("create", "-p", "other/ids/1", fails=2).error


REFUSALS: Final = [
    (["info", "none"], "DATASET_NOT_FOUND"),
    (["ls", "none/color"], "DATASET_NOT_FOUND"),
    (["info", "brain/none"], "LAYER_NOT_FOUND"),
    (["info", "brain/mri/2"], "MAG_NOT_FOUND"),
    (["ls", "brain/mri/2"], "MAG_NOT_FOUND"),
    (["ls", "brain/mri/2", "--files"], "MAG_NOT_FOUND"),
    (["rm", "brain/none", "--yes"], "LAYER_NOT_FOUND"),
    (["rename", "brain/none", "x"], "LAYER_NOT_FOUND"),
    (["rename", "brain/mri", "a/b"], "INVALID_NAME"),
    (["create", "brain", "--voxel-size", "1,1,1"], "DATASET_EXISTS"),
    (["create", "brain/mri"], "LAYER_EXISTS"),
    (["create", "brain/mri/1"], "MAG_EXISTS"),
    (["create", "brain", "--voxel-size", "2,1,1", "--exist-ok"], "EXISTS_WITH_OTHER_PARAMETERS"),
    (["create", ".hidden", "--voxel-size", "1,1,1"], "INVALID_NAME"),
    (["compress", "brain/mri/2"], "MAG_NOT_FOUND"),
    (["check", "none"], "DATASET_NOT_FOUND"),
    (["operations", "operations/none"], "OPERATION_NOT_FOUND"),
    (["operations", "operations/none", "--watch"], "OPERATION_NOT_FOUND"),
    (["operations", "operations/none", "--cancel"], "OPERATION_NOT_FOUND"),
    (["export", "brain/mri/1", "x.npy"], "INVALID_BOX"),
    (["export", "brain/mri/2", "x.npy"], "MAG_NOT_FOUND"),
]


@pytest.mark.usefixtures("daemon")
def test_what_the_daemon_refuses_is_one_line_with_its_reason(magd: Magd) -> None:
    magd("create", "-p", "brain/mri/1", "--voxel-size", "1,1,1")
    found = {" ".join(arguments): magd(*arguments, fails=1).error for arguments, _ in REFUSALS}
    reasons = {call: error.rpartition("[")[2].rstrip("]") for call, error in found.items()}
    assert reasons == {" ".join(arguments): reason for arguments, reason in REFUSALS}


@pytest.mark.usefixtures("daemon")
def test_a_scan_is_imported_listed_compressed_checked_and_exported(magd: Magd, root: Path, tmp_path: Path) -> None:
    nibabel: Any = importlib.import_module("nibabel")
    scan = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    expected = np.asanyarray(nibabel.load(scan).dataobj)[..., 1]
    outcome = magd("import", scan, "brain/mri", "--volume", "1", "--block-len", "8", "--file-len", "2", "--json")
    (done,) = outcome.json()
    assert (done["name"], done["size"], done["dtype"]) == ("brain/mri/1", [128, 96, 24], "int16")
    assert done["bytes"] == expected.nbytes
    assert "affine" in outcome.err
    dataset = magd("info", "brain", "--json").json()
    assert (dataset["voxel_size"], dataset["unit"]) == ([2.0, 2.0, 2.2], "millimeter")

    files = [json.loads(line) for line in magd("ls", "brain/mri/1", "--files", "--json").out.splitlines()]
    assert len(files) == 8 * 6 * 2
    assert {file["block_type"] for file in files} == {"raw"}
    assert len(magd("ls", "brain/mri/1", "--files").out.splitlines()) == len(files) + 1

    assert "compressed brain/mri/1: 96 cube files" in magd("compress", "brain/mri/1").out
    assert magd("compress", "brain/mri/1", "--json").json()["state"] == "succeeded"
    assert (
        magd("compress", "brain/mri/1", "--target", "small", "--level", "9", "--json").json()["result"] == "small/mri/1"
    )
    assert magd("info", "brain/mri/1", "--json").json()["compressed"]

    operations = magd("operations", "--json").json()
    assert [operation["kind"] for operation in operations] == ["compress"] * 3
    name = operations[-1]["name"]
    assert magd("operations", name, "--json").json()["files_done"] == 96
    assert "96 of 96" in magd("operations", name).out
    assert name in magd("operations", "brain").out
    lines = magd("operations", name, "--watch", "--json").out.splitlines()
    assert json.loads(lines[-1])["state"] == "succeeded"
    assert magd("operations", name, "--cancel", "--json").json()["state"] == "succeeded"

    magd("flush", "brain/mri/1", "--level", "disk")
    assert magd("flush", "--json").json() == {"name": None, "level": "files"}
    status = magd("status", "--json").json()
    assert "brain/mri/1" in [mag["name"] for mag in status["mags"]]
    assert "brain/mri/1" in magd("status").out
    # Cube files without a voxel that is not zero are left out by a compression.
    corners = itertools.product(*(range(0, extent, 16) for extent in expected.shape))
    kept = sum(bool(expected[x : x + 16, y : y + 16, z : z + 16].any()) for x, y, z in corners)
    assert 0 < kept < 96
    assert magd("check", "--deep", "--json").json() == {
        "files_checked": 2 * kept,
        "files_damaged": 0,
        "findings": [],
        "removed": [],
    }

    for folder in ("brain", "small"):
        with wkw.Dataset.open(str(root / folder / "mri" / "1")) as files_of_mag:
            np.testing.assert_array_equal(files_of_mag.read((0, 0, 0), expected.shape)[0], expected)
    magd("export", "brain/mri/1", tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    cut = ["--offset", "10,20,3", "--size", "30x20x10", "--json"]
    assert magd("export", "brain/mri/1", tmp_path / "a.tif", *cut).json()["size"] == [30, 20, 10]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), expected[10:40, 20:40, 3:13].transpose(2, 1, 0))
    assert "--overwrite" in magd("export", "brain/mri/1", tmp_path / "a.npy", fails=1).error
    magd("export", "brain/mri/1", tmp_path / "a.npy", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.tif", "root"]


@pytest.mark.usefixtures("daemon")
def test_an_export_that_fails_leaves_no_file(magd: Magd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", noise((4, 5, 6)))
    magd("import", tmp_path / "a.npy", "brain/mri", "--voxel-size", "1,1,1")
    assert "No such file" in magd("export", "brain/mri/1", tmp_path / "none" / "b.npy", fails=1).error

    def fail_halfway(mag: object, box: object, info: object, path: str, *_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("magd.cli.exporting.writers.exporter_of", lambda *_: fail_halfway)
    assert "No space left" in magd("export", "brain/mri/1", tmp_path / "b.npy", fails=1).error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "root"]


@pytest.mark.usefixtures("daemon")
def test_layers_and_mags_that_are_not_served_say_why(
    magd: Magd, root: Path, sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path
) -> None:
    shutil.copytree(sample[0], root / "sample")
    properties = root / "sample" / "datasource-properties.json"
    tree = json.loads(properties.read_text())
    tree["dataLayers"][0]["dataFormat"] = "zarr3"
    properties.write_text(json.dumps(tree))
    (root / "broken").mkdir()
    (root / "broken" / "datasource-properties.json").write_text("{")
    assert "REMARK" in magd("ls").out
    assert "it is not JSON" in magd("info", "broken", fails=1).error
    assert "zarr3" in magd("ls", "sample").out
    assert "not served" in magd("info", "sample/color").out
    assert "not served" in magd("info", "sample").out
    np.save(tmp_path / "a.npy", noise((4, 5, 6)))
    for arguments in (["import", tmp_path / "a.npy", "sample/color"], ["export", "sample/color/1", tmp_path / "b.npy"]):
        assert "zarr3" in magd(*arguments, fails=1).error


@pytest.mark.usefixtures("daemon")
def test_imports_of_npy_and_tiff_lie_where_they_should(magd: Magd, tmp_path: Path) -> None:
    labels = noise((20, 30, 40), "uint16")
    np.save(tmp_path / "labels.npy", labels)
    arguments = ["--axes", "zyx", "--dtype", "uint32", "--category", "segmentation", "--offset", "7,8,9"]
    magd("import", tmp_path / "labels.npy", "cortex/ids/2", *arguments, "--voxel-size", "4,4,40", "--compress")
    mag = magd("info", "cortex/ids/2", "--json").json()
    assert (mag["dtype"], mag["compressed"], mag["file_len"]) == ("uint32", True, 1)
    assert mag["bounding_box"] == {"offset": [7, 8, 9], "size": [40, 30, 20]}
    magd("export", "cortex/ids/2", tmp_path / "back.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), labels.transpose(2, 1, 0))

    colours = noise((12, 30, 40, 3))
    (tmp_path / "stack").mkdir()
    for z, page in enumerate(colours):
        tifffile.imwrite(tmp_path / "stack" / f"{z}.tif", page, photometric="rgb")
    # Pieces of one plane, and more jobs than planes.
    magd("import", f"{tmp_path}/stack/*.tif", "cortex/photo", "--piece-size", "1KiB", "--jobs", "16")
    magd("export", "cortex/photo/1", tmp_path / "back.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "back.tif"), colours)


@pytest.mark.usefixtures("daemon")
def test_a_wkw_dataset_is_imported_with_all_layers_and_mags(
    magd: Magd, sample: tuple[Path, dict[tuple[str, str], SampleMag]], tmp_path: Path
) -> None:
    folder, expected = sample
    done = magd("import", folder, "copy", "--json").json()
    assert len(done) == len(expected)
    layers = {layer["name"]: layer for layer in magd("ls", "copy", "--json").json()}
    original = json.loads((folder / "datasource-properties.json").read_text())
    for layer in original["dataLayers"]:
        copied = layers[f"copy/{layer['name']}"]
        assert copied["category"] == layer["category"]
        assert copied["largest_segment_id"] == layer.get("largestSegmentId")
    for (layer, mag), voxels in expected.items():
        magd("export", f"copy/{layer}/{mag}", tmp_path / "a.npy", "--overwrite")
        offset, size = voxels.offset, voxels.size
        info = magd("info", f"copy/{layer}/{mag}", "--json").json()["bounding_box"]
        cut = tuple(slice(o - i, o - i + s) for o, i, s in zip(offset, info["offset"], size, strict=True))
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[cut], voxels.data[0])


@pytest.mark.usefixtures("daemon")
def test_an_import_that_cannot_work_creates_nothing(magd: Magd, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise((4, 5, 6)))
    np.save(tmp_path / "half.npy", np.zeros((4, 5, 6), "float16"))
    for arguments, text in (
        (["a.npy", "new/a"], "how large a voxel is: give --voxel-size"),
        (["half.npy", "new/a", "--voxel-size", "1,1,1"], "float16"),
        (["none.npy", "new/a", "--voxel-size", "1,1,1"], "no such file"),
        (["a.npy", "new", "--voxel-size", "1,1,1"], "new/LAYER"),
        (["a.npy", "new/a", "--voxel-size", "1,1,1", "--offset", f"{2**31 - 3},0,0"], "beyond"),
    ):
        assert text in magd("import", tmp_path / arguments[0], *arguments[1:], fails=1).error
    assert magd("ls", "--json").json() == []


@pytest.mark.usefixtures("daemon")
def test_an_import_must_fit_what_exists(magd: Magd, tmp_path: Path) -> None:
    magd("create", "-p", "brain/mri/1", "--voxel-size", "1,1,1", "--dtype", "uint8", "--file-len", "1")
    np.save(tmp_path / "a.npy", noise((4, 5, 6), "uint16"))
    error = magd("import", tmp_path / "a.npy", "brain/mri", fails=1).error
    assert "--dtype uint8 converts them [DATA_TYPE_MISMATCH]" in error
    magd("import", tmp_path / "a.npy", "brain/mri", "--dtype", "uint8")
    np.save(tmp_path / "b.npy", np.full((4, 5, 6), 300, "uint16"))
    error = magd("import", tmp_path / "b.npy", "brain/mri", "--dtype", "uint8", fails=1).error
    assert "value 300 does not fit uint8" in error
    assert magd("info", "brain/mri/1", "--json").json()["file_len"] == 1


@pytest.mark.usefixtures("daemon")
def test_the_demo_works_again_and_again(magd: Magd) -> None:
    done = magd("demo", "--writers", "3", "--writes", "10", "--json").json()
    assert (done["name"], done["writes"], done["retried"]) == ("demo/noise/1", 30, 6)
    text = magd("demo", "--writers", "3", "--writes", "10").out
    assert "every voxel is what the last writer of it wrote" in text
    magd("compress", "demo/noise/1")
    magd("rm", "demo", "--yes")


def test_damage_is_found_online_and_offline_with_a_status_for_scripts(
    magd: Magd, serve: Serve, sample: tuple[Path, dict[tuple[str, str], SampleMag]], root: Path
) -> None:
    shutil.copytree(sample[0], root / "sample")
    assert magd("check", root, "--offline", "--deep").out.endswith("no damage\n")
    (damaged, *_) = sorted((root / "sample" / "segmentation" / "1").rglob("x*.wkw"))
    with damaged.open("r+b") as file:
        file.truncate(damaged.stat().st_size - 100)

    name = os.path.relpath(damaged, root)
    text = magd("check", root, "--offline", fails=1).out
    assert f"damage: {name}: " in text
    assert "1 damaged" in text
    found = magd("check", root / "sample", "--offline", "--json", fails=1).json()
    assert found["files_damaged"] == 1
    assert [finding["file"] for finding in found["findings"]] == [os.path.relpath(damaged, root / "sample")]

    server = serve(root).grpc
    online = magd("check", "--server", server, "--json", fails=1).json()
    assert [finding["file"] for finding in online["findings"]] == [name]
    assert magd("check", "sample/color", "--server", server).out.endswith("no damage\n")
    assert "no such folder" in magd("check", root / "none", "--offline", fails=1).error
    assert "add --offline" in magd("check", f"{root}", "--server", server, fails=2).error


def test_a_read_only_daemon_refuses_changes_with_one_line(
    magd: Magd, serve: Serve, sample: tuple[Path, dict[tuple[str, str], SampleMag]], root: Path
) -> None:
    shutil.copytree(sample[0], root / "sample")
    server = serve(root, "--read-only").grpc
    assert magd("create", "x", "--voxel-size", "1,1,1", "--server", server, fails=1).error.endswith("[READ_ONLY]")
    assert "read-only" in magd("status", "--server", server).out
    assert magd("info", "sample/color/1", "--server", server).out


def test_commands_reach_a_daemon_at_a_unix_socket(magd: Magd, serve: Serve, root: Path, unix_address: str) -> None:
    serve(root, grpc=unix_address)
    assert magd("ls", "--server", unix_address, "--json").json() == []


def test_a_second_daemon_on_the_same_root_says_so_in_a_line(serve: Serve, root: Path) -> None:
    serve(root)
    with pytest.raises(DaemonError) as caught:
        serve(root)
    assert caught.value.status not in (0, None)
    assert "Traceback" not in caught.value.log


def test_watching_ends_with_ctrl_c(daemon: Daemon) -> None:
    process = subprocess.Popen(
        [*MAGD, "status", "--watch", "--interval", "0.1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["version"] for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.split() == ["magd:", "error:", "interrupted"]


def test_the_installed_script_is_the_same_command_line() -> None:
    script = shutil.which("magd", path=os.path.dirname(sys.executable))
    assert script is not None
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith("magd ")


@pytest.mark.usefixtures("daemon")
def test_a_mag_that_another_program_changed_says_so_until_it_is_reopened(
    magd: Magd, root: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "volume.npy", noise((16, 16, 16)))
    magd("import", tmp_path / "volume.npy", "cortex/color", "--voxel-size", "11,11,28")
    magd("flush")
    assert "cortex/color/1 is serving" in magd("reopen", "cortex/color/1").out
    (cube_file,) = (root / "cortex/color/1").rglob("x0.wkw")
    shutil.copyfile(cube_file, tmp_path / "copy")
    os.replace(tmp_path / "copy", cube_file)
    failed = magd("export", "cortex/color/1", tmp_path / "out.npy", fails=1)
    assert "another program" in failed.error
    (mag,) = magd("status", "--json").json()["mags"]
    assert mag["state"] == "failed"
    assert str(cube_file) in mag["reason"]
    assert magd("reopen", "cortex/color/1", "--json").json()["state"] == "serving"
    magd("export", "cortex/color/1", tmp_path / "out.npy", "--overwrite")
