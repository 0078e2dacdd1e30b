"""The sync client is what scripts/unasync makes of the async one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "unasync"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the client and of the script."""
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "unasync", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_sync_client_is_up_to_date() -> None:
    result = run(ROOT, "--check")
    assert result.returncode == 0, result.stderr


def test_a_change_on_either_side_and_a_file_too_many_are_noticed(copy: Path) -> None:
    package = copy / "client" / "magd_client"
    with (package / "_sync" / "layer.py").open("a") as file:
        file.write("# edited by hand\n")
    with (package / "_async" / "mag.py").open("a") as file:
        file.write("# a change\n")
    (package / "_sync" / "left_over.py").touch()
    result = run(copy, "--check")
    assert result.returncode == 1
    assert [line.split()[0] for line in result.stderr.splitlines()] == [
        "_sync/layer.py",
        "_sync/left_over.py",
        "_sync/mag.py",
    ]
    assert run(copy).returncode == 0
    assert run(copy, "--check").returncode == 0
    assert not (package / "_sync" / "left_over.py").exists()


def test_a_row_of_the_table_that_is_never_used_fails(copy: Path) -> None:
    script = copy / "scripts" / "unasync"
    script.write_text(script.read_text().replace("TABLE = [", 'TABLE = [\n    ("trio", "nothing"),'))
    result = run(copy)
    assert result.returncode == 1
    assert "never used: trio" in result.stderr


def test_nothing_of_asyncio_is_left_in_the_sync_client() -> None:
    for path in (ROOT / "client" / "magd_client" / "_sync").glob("*.py"):
        text = path.read_text()
        for word in ("asyncio", "await ", "async ", "aio.", "magd_client._async"):
            allowed = path.name in ("__init__.py", "transport.py", "twins.py")
            assert allowed or word not in text, f"{path.name} has {word!r}"
