"""What the command line does before it reaches a daemon: help, usage, failures, output."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from magd.acknowledgement import Durability
from magd.cli import output
from magd.cli.main import COMMANDS
from magd.errors import DataLoss, NotFound, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Magd

NOBODY = "127.0.0.1:1"
"""No daemon listens on the first port."""


def test_the_help_names_each_command_and_how_to_begin(magd: Magd) -> None:
    text = magd("--help").out
    assert magd().out == text
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert "magd serve ./data" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_with_examples(magd: Magd, command: str) -> None:
    text = magd(command, "--help").out
    assert "Example" in text
    assert f"magd {command}" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_the_version_is_printed(magd: Magd) -> None:
    assert magd("--version").out.startswith("magd 0.")


def test_the_entry_point_does_not_import_what_is_slow() -> None:
    program = (
        "import sys, magd.cli.main\n"
        "slow = {'grpc', 'numpy', 'rich', 'google.protobuf', 'magd_client', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_line_runs_as_a_module() -> None:
    result = subprocess.run([sys.executable, "-m", "magd.cli.main", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("magd ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["unknown"], "No such command 'unknown'"),
        (["ls", "--unknown"], "No such option"),
        (["ls", "a/b/c/d"], "is not like dataset"),
        (["ls", "a/b", "--files"], "--files lists the cube files of a mag"),
        (["create"], "Missing argument"),
        (["create", "a", "--dtype", "uint8"], "--dtype describes a layer, but a names a dataset"),
        (["create", "a/b/1", "--unit", "meter"], "with --parents"),
        (["create", "a", "--voxel-size", "1,2"], "three numbers"),
        (["create", "a/b/1", "--file-len", "3"], "power of two"),
        (["create", "a/b", "--dtype", "float16"], "float16"),
        (["rename", "a", "b"], "wanted is dataset/layer"),
        (["compress", "a/b"], "wanted is dataset/layer/mag"),
        (["compress", "a/b/1", "--level", "2"], "3 to 12"),
        (["operations", "a", "--watch"], "name of an operation"),
        (["operations", "operations/x", "--watch", "--cancel"], "cannot be combined"),
        (["export", "a/b", "x.npy"], "wanted is dataset/layer/mag"),
        (["export", "a/b/1", "x.npy", "--size", "0,1,1"], "below 1"),
        (["import", "x.npy", "a/b", "--unit", "meter"], "--voxel-size"),
        (["import", "x.npy", "a/b", "--offset", "1,2,-3"], "below 0"),
        (["flush", "--level", "none"], "none"),
        (["check", "--offline"], "needs the folder"),
        (["check", "/some/long/path/x", "--server", NOBODY], "is not like dataset"),
        (["serve"], "Missing argument"),
        (["serve", "/does/not/exist"], "does not exist"),
        (["status", "--interval", "0"], "0.1"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(magd: Magd, arguments: list[str], text: str) -> None:
    assert text in magd(*arguments, fails=2).error


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["ls", "a"],
        ["ls", "a/b/1", "--files"],
        ["info", "a"],
        ["create", "a", "--voxel-size", "1,1,1"],
        ["rename", "a/b", "c"],
        ["rm", "a", "--yes"],
        ["compress", "a/b/1"],
        ["operations"],
        ["flush"],
        ["check"],
        ["status"],
        ["demo"],
        ["export", "a/b/1", "x.npy"],
    ],
)
def test_without_a_daemon_each_command_says_how_to_start_one(magd: Magd, arguments: list[str]) -> None:
    error = magd(*arguments, "--server", NOBODY, fails=1).error
    assert error.startswith(f"no daemon answers at {NOBODY}; start one with: magd serve ROOT --grpc {NOBODY}")
    assert error.endswith("[UNAVAILABLE]")


def test_the_address_is_taken_from_the_environment(magd: Magd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGD_SERVER", f"unix:{tmp_path}/socket")
    error = magd("ls", fails=1).error
    assert f"magd serve ROOT --grpc unix:{tmp_path}/socket" in error
    assert "no such socket" in error


def test_without_the_server_extra_serve_shows_the_install_line(
    magd: Magd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "magd.daemon", raising=False)
    monkeypatch.setitem(sys.modules, "structlog", None)
    error = magd("serve", tmp_path, fails=1).error
    assert 'pip install "magd[server]"' in error
    assert "structlog is missing" in error


def test_the_options_of_serve_become_the_settings_of_the_daemon(
    magd: Magd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magd import daemon

    configs: list[daemon.DaemonConfig] = []

    def serve(config: daemon.DaemonConfig) -> int:
        configs.append(config)
        return 3

    monkeypatch.setattr(daemon, "serve", serve)
    options = "--grpc 127.0.0.1:0 --http none --read-only --budget 512MiB --max-box 1MiB --min-durability disk"
    more = "--workers 3 --io-threads 5 --idle-seconds 2.5 --log-format json --log-level debug --insecure"
    magd("serve", tmp_path, *options.split(), *more.split(), fails=3)
    magd("serve", tmp_path, fails=3)
    given, default = configs
    assert (given.root, given.grpc, given.http, given.insecure) == (str(tmp_path), "127.0.0.1:0", None, True)
    assert (given.log_format, given.log_level) == ("json", "debug")
    assert given.storage.read_only
    assert (given.storage.budget_bytes, given.storage.max_box_bytes) == (512 << 20, 1 << 20)
    assert given.storage.min_durability is Durability.DISK
    assert (given.storage.pool_workers, given.storage.io_threads, given.storage.idle_seconds) == (3, 5, 2.5)
    assert default == daemon.DaemonConfig(root=str(tmp_path))


def test_a_box_above_the_budget_is_refused(magd: Magd, tmp_path: Path) -> None:
    assert "more than the budget" in magd("serve", tmp_path, "--budget", "1MiB", "--max-box", "2MiB", fails=2).error
    too_much = magd("serve", tmp_path, "--budget", "16MiB", "--shared-memory", "9MiB", fails=2)
    assert "more than half of the budget" in too_much.error
    both = magd("serve", tmp_path, "--no-shared-memory", "--shared-memory", "1MiB", fails=2)
    assert "--no-shared-memory" in both.error


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (NotFound("there is no\nx", reason=Reason.LAYER_NOT_FOUND), "there is no x [LAYER_NOT_FOUND]", 1),
        (DataLoss("x.wkw: bad"), "x.wkw: bad [CORRUPT_CUBE_FILE]", 1),
        (PermissionError(13, "Permission denied", "x.npy"), "x.npy: Permission denied [IO_ERROR]", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (
            ZeroDivisionError("oops"),
            "unexpected ZeroDivisionError: oops (magd --traceback ... shows where) [INTERNAL]",
            1,
        ),
    ],
)
def test_every_error_becomes_one_line(
    magd: Magd, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str, status: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("magd.cli.listing.connected", fail)
    outcome = magd("ls", fails=status)
    assert outcome.err.strip() == f"magd: error: {line}"


def test_a_traceback_is_shown_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, magd: Magd) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("magd.cli.listing.connected", fail)
    result = magd("--traceback", "ls", fails=1)
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("magd: error: ")


def test_a_table_is_aligned_and_numbers_stand_right(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([output.Column("NAME"), output.Column("SIZE", right=True)], [["a", "1"], ["longer", "12345"]])
    assert capsys.readouterr().out == "NAME     SIZE\na           1\nlonger  12345\n"


def test_a_table_at_a_terminal_shows_cells_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.print_table([output.Column("NAME"), output.Column("SIZE", right=True)], [["[red]x[/red]", "1"]])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_details_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_details({"a": "1", "longer": "2"})
    assert capsys.readouterr().out == "a       1\nlonger  2\n"


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar("copy", 10) as bar:
        bar.advance(5)
        bar.set(10, 20)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_is_shown_at_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress_bar("copy", 10, in_bytes=False) as bar:
        bar.advance(5)
        bar.set(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "copy" in captured.err
