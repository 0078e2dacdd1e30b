"""Checks an environment that has magd[server] and webknossos together: both can be imported in one process.

Run it with that environment's Python, outside of the repository.
"""

import importlib
import importlib.metadata
import warnings


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # protobuf warns so if generated code does not fit it
        for module in ("magd.daemon", "magd_client", "magd_client.aio"):
            importlib.import_module(module)
    importlib.import_module("webknossos")

    names = ("magd", "webknossos", "protobuf", "grpcio", "click")
    versions = {name: importlib.metadata.version(name) for name in names}
    assert versions["protobuf"].startswith("6."), versions
    print(*(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
