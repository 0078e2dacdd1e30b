"""compress, decompress and rechunk against a real daemon, and what is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import wkw

import magd_client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Magd
    from tests.conftest import Serve
    from tests.support.daemon import Daemon

SIZE = (40, 33, 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def daemon(serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon = serve(root, "--max-cpu", "0.5")
    monkeypatch.setenv("MAGD_SERVER", daemon.grpc)
    return daemon


def test_a_mag_goes_all_ways_and_back_without_a_change_of_a_voxel(daemon: Daemon, magd: Magd, root: Path) -> None:
    data = np.random.default_rng(5).integers(0, 3, SIZE, dtype=np.uint16)
    magd("create", "-p", "brain/ids/1", "--voxel-size", "1,1,1", "--dtype", "uint16", "--block-len", 8, "--file-len", 2)
    with magd_client.connect(daemon.grpc) as client:
        mag = client.dataset("brain").layer("ids").mag("1")
        mag.write(data)

        skipped = magd("compress", "brain/ids/1", "--min-gain", 0.99).out
        assert "left as it is" in skipped
        done = magd("compress", "brain/ids/1", "--json").json()
        statistics = done["statistics"]
        assert statistics["high_blocks"] > 0
        assert 0 < statistics["stored_bytes"] < statistics["raw_bytes"] == done["bytes_done"] == done["bytes_total"]
        assert "last compress" in magd("info", "brain/ids/1").out

        assert "rechunked brain/ids/1" in magd("rechunk", "brain/ids/1", "--block-len", 4, "--file-len", 8).out
        info = magd("info", "brain/ids/1", "--json").json()
        assert (info["block_len"], info["file_len"], info["compressed"]) == (4, 8, True)
        assert info["last_conversion"]["kind"] == "rechunk"
        assert "nothing to do" in magd("rechunk", "brain/ids/1", "--file-len", 8).out

        magd("decompress", "brain/ids/1", "--target", "copy")
        assert mag.get_info().compressed
        magd("decompress", "brain/ids/1")
        operation = mag.rechunk(file_len=2)
        told: list[tuple[int, int]] = []
        operation.wait(progress=lambda *at: told.append(at))
        assert told[-1][0] == told[-1][1] > 0
        found = operation.get_statistics()
        assert found is not None
        assert found.longest_hold_seconds > 0
        assert found.blocks * 4**3 * 2 == found.raw_bytes
        np.testing.assert_array_equal(mag.read((0, 0, 0), SIZE)[0], data)
    for dataset in ("brain", "copy"):
        with wkw.Dataset.open(str(root / dataset / "ids/1")) as files:
            np.testing.assert_array_equal(files.read((0, 0, 0), SIZE)[0], data)


@pytest.mark.usefixtures("daemon")
def test_what_cannot_be_is_refused(magd: Magd) -> None:
    magd("create", "-p", "brain/ids/1", "--voxel-size", "1,1,1", "--block-len", 8, "--file-len", 2)
    assert "--block-len" in magd("rechunk", "brain/ids/1", fails=2).err
    assert "power of two" in magd("rechunk", "brain/ids/1", "--file-len", 3, fails=2).err
    assert "--min-gain" in magd("compress", "brain/ids/1", "--min-gain", 1, fails=2).err
    magd("decompress", "brain/ids/1", "--target", "copy")
    magd("decompress", "brain/ids/1", "--target", "copy", fails=1)
