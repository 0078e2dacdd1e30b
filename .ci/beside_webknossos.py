"""Checks an environment that has magd[server] and webknossos together: both can be imported in one process.

Run it with that environment's Python, outside of the repository.
"""

import importlib.metadata
import warnings


def main() -> None:
    warnings.simplefilter("error", UserWarning)  # protobuf warns so if generated code does not fit it

    import magd.daemon
    import magd_client

    warnings.resetwarnings()
    import webknossos

    assert magd.daemon
    assert magd_client.connect
    assert webknossos.Dataset
    versions = {
        name: importlib.metadata.version(name)
        for name in ("magd", "webknossos", "protobuf", "grpcio", "click")
    }
    assert versions["protobuf"].startswith("6."), versions
    print(" ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
