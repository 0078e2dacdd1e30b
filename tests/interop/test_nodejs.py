"""A client on Node.js that has the protos and nothing else of magd (tests/nodejs), against a real daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import wkw

if TYPE_CHECKING:
    from tests.conftest import Serve

CLIENT = Path(__file__).parents[1] / "nodejs"


def test_a_client_on_nodejs_writes_reads_follows_a_compression_and_decodes_an_error(
    serve: Serve, any_address: str, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js")
    if not (CLIENT / "node_modules").is_dir():
        pytest.skip("the packages of tests/nodejs are not installed (npm ci); scripts/test does that")
    daemon = serve(tmp_path, grpc=any_address)

    ended = subprocess.run(
        [node, str(CLIENT / "client.js"), daemon.grpc],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["durability"] == "DURABILITY_DISK"
    assert seen["revision"]["counter"] >= 1
    assert seen["read"] == {
        "box": {"offset": {"x": 5, "y": 60, "z": 3}, "size": {"x": 70, "y": 33, "z": 20}},
        "data_type": "DATA_TYPE_UINT16",
        "num_channels": 1,
    }
    assert seen["states"][-1] == "OPERATION_STATE_SUCCEEDED"
    assert set(seen["states"][:-1]) <= {"OPERATION_STATE_PENDING", "OPERATION_STATE_RUNNING"}
    assert (seen["progress"]["files_done"], seen["progress"]["files_total"]) == (4, 4)
    assert seen["result"] == "datasets/from-nodejs/layers/color/mags/1"
    assert seen["block_type"] == "BLOCK_TYPE_LZ4HC"
    not_found = 5
    assert seen["error"]["grpc_code"] == seen["error"]["code"] == not_found
    [info] = seen["error"]["infos"]
    assert (info["domain"], info["reason"]) == ("magd", "MAG_NOT_FOUND")
    assert seen["error"]["message"]

    # What it wrote is where WEBKNOSSOS looks for it.
    with wkw.Dataset.open(str(tmp_path / "from-nodejs/color/1")) as dataset:
        voxels = dataset.read((5, 60, 3), (70, 33, 20))
    flat = voxels[0].flatten(order="F")
    assert [int(value) for value in flat[:3]] == [7, 38, 69]
    last = (70 * 33 * 20 - 1) * 31 + 7
    assert int(flat[-1]) == last % 65536
