"""Checks an environment that has magd without extras: what a pipeline that only uses a daemon installs.

Run it with that environment's Python, outside of the repository.
"""

import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import subprocess
import sys
from pathlib import Path

SERVER_ONLY = ("aiohttp", "prometheus_client", "structlog", "webknossos", "wkw", "xxhash")
COMMANDS = (
    *("serve", "ls", "info", "create", "import", "export"),
    *("compress", "decompress", "rechunk", "downsample", "flush", "check", "reopen", "status", "demo"),
)


def magd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    command = Path(sys.executable).with_name("magd")
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=False, timeout=60)


def main() -> None:
    present = [name for name in SERVER_ONLY if importlib.util.find_spec(name) is not None]
    assert not present, f"installed without the server extra: {present}"

    for module in ("magd_client", "magd_client.aio"):
        assert callable(importlib.import_module(module).connect)
    for package in ("magd", "magd_client"):
        assert importlib.resources.files(package).joinpath("py.typed").is_file(), f"{package} is not typed"

    usage = magd("--help")
    assert usage.returncode == 0, usage.stderr
    for command in COMMANDS:
        assert command in usage.stdout, f"magd --help does not name {command}"

    serve = magd("serve", ".")
    assert serve.returncode != 0, "magd serve ran without the server extra"
    assert "pip install" in serve.stderr, serve.stderr
    assert "magd[server]" in serve.stderr, serve.stderr
    assert "Traceback" not in serve.stderr, serve.stderr

    version = importlib.metadata.version("magd")
    print(f"magd {version} without extras: client and command line work, and magd serve says what to install")


if __name__ == "__main__":
    main()
