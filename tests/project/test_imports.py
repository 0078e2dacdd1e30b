"""What importing a part of magd brings along: some environments lack the rest, and some processes must not have it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SERVER_ONLY = ["aiohttp", "grpc_health", "grpc_reflection", "prometheus_client", "structlog", "xxhash"]


def modules_after(program: str, *, without: list[str] | None = None) -> set[str]:
    """Run a program in a fresh interpreter.

    :param without: packages that cannot be imported there, as if they were not installed
    :return: the names of all modules that it has imported
    """
    hide = f"import sys\nfor name in {without or []!r}: sys.modules[name] = None\n"
    tell = "\nimport json, sys\nprint(json.dumps([name for name, module in sys.modules.items() if module]))\n"
    ended = subprocess.run([sys.executable, "-c", hide + program + tell], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_magd_itself_imports_nothing() -> None:
    imported = modules_after("import magd")
    assert {module for module in imported if module.startswith("magd")} == {"magd"}
    assert "numpy" not in packages(imported)


@pytest.mark.parametrize("main", ["magd.cli.main", "magd.compression.worker"])
def test_what_a_pool_worker_imports_again_has_no_grpc_and_no_daemon(main: str) -> None:
    # A spawned process runs the main module of its parent under this name.
    imported = modules_after(f"import runpy; runpy.run_module({main!r}, run_name='__mp_main__')")
    assert not packages(imported) & {"grpc", "google", "aiohttp", "anyio", "asyncio"}
    layers = ("magd.daemon", "magd.rpc", "magd.web", "magd.actors", "magd_client")
    assert not {module for module in imported if module.startswith(layers)}


@pytest.mark.parametrize("module", ["magd_client", "magd_client.aio", "magd.cli.main"])
def test_client_and_command_line_need_nothing_of_the_server_extra(module: str) -> None:
    modules_after(f"import {module}", without=SERVER_ONLY)


def test_magd_never_imports_the_libraries_that_its_tests_compare_it_with() -> None:
    imported = modules_after("import magd.daemon, magd.cli.main, magd_client, magd_client.aio")
    assert not packages(imported) & {"wkw", "webknossos"}
