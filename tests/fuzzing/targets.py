"""All that is fuzzed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzzing.cube_files import CubeFiles
from tests.fuzzing.journals import Journals
from tests.fuzzing.properties import Properties
from tests.fuzzing.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.fuzzing.fuzzer import Target

TARGETS: Final[Mapping[str, Callable[[], Target]]] = {
    "cube-files": CubeFiles,
    "journals": Journals,
    "properties": Properties,
    "requests": Requests,
}
"""By name, as the corpus and the command know them."""
