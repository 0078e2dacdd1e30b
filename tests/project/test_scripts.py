"""The commands of the repository, as far as they can be checked without running them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [REPOSITORY / name for name in ("scripts/test", "scripts/bench", "scripts/lint", "scripts/proto", ".ci/run")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_a_command_can_be_started_and_stops_at_the_first_error(command: Path) -> None:
    assert os.access(command, os.X_OK)
    lines = command.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    subprocess.run(["bash", "-n", str(command)], check=True)


def test_the_packages_for_nodejs_are_pinned_and_name_no_registry() -> None:
    folder = REPOSITORY / "tests/nodejs"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    for path, package in locked.items():
        assert "resolved" not in package, path
        assert path == "" or package["integrity"].startswith("sha512-")
