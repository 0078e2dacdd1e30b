"""Names of datasets, layers and mags: `datasets/{dataset}/layers/{layer}/mags/{mag}`.

Two rules hold. What magd creates gets a name of a small alphabet, the one WEBKNOSSOS allows. What exists on
disk is served under whatever name it has, as long as the name can be a part of a path and hides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from magd.errors import InvalidRequest, Reason
from magd.geometry import Mag
from magd.properties.forms import name_problem, shown

_NEW_NAME: Final = re.compile(r"[A-Za-z0-9_$@-][A-Za-z0-9_$@.-]*")
_MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class DatasetName:
    """The name of a dataset."""

    dataset: str

    @classmethod
    def parse(cls, text: str, *, field: str = "name") -> DatasetName:
        """Read `datasets/{dataset}`.

        :param field: where the text came from, for the error
        :raises InvalidRequest: INVALID_NAME
        """
        (dataset,) = _parts(text, ("datasets",), field)
        return cls(dataset)

    def __str__(self) -> str:
        return f"datasets/{self.dataset}"


@dataclass(frozen=True, slots=True)
class LayerName:
    """The name of a layer."""

    dataset: str
    layer: str

    @classmethod
    def parse(cls, text: str, *, field: str = "name") -> LayerName:
        """Read `datasets/{dataset}/layers/{layer}`.

        :param field: where the text came from, for the error
        :raises InvalidRequest: INVALID_NAME
        """
        dataset, layer = _parts(text, ("datasets", "layers"), field)
        return cls(dataset, layer)

    @property
    def dataset_name(self) -> DatasetName:
        """Of the dataset it is in."""
        return DatasetName(self.dataset)

    def __str__(self) -> str:
        return f"datasets/{self.dataset}/layers/{self.layer}"


@dataclass(frozen=True, slots=True)
class MagName:
    """The name of a mag. Its text has the short form of the mag."""

    dataset: str
    layer: str
    mag: Mag

    @classmethod
    def parse(cls, text: str, *, field: str = "name") -> MagName:
        """Read `datasets/{dataset}/layers/{layer}/mags/{mag}`, with the mag as "2", "2-2-2" or "2-2-1".

        :param field: where the text came from, for the error
        :raises InvalidRequest: INVALID_NAME
        """
        return _mag_name(text, field)

    @property
    def dataset_name(self) -> DatasetName:
        """Of the dataset it is in."""
        return DatasetName(self.dataset)

    @property
    def layer_name(self) -> LayerName:
        """Of the layer it is in."""
        return LayerName(self.dataset, self.layer)

    def __str__(self) -> str:
        return f"datasets/{self.dataset}/layers/{self.layer}/mags/{self.mag}"


ResourceName: TypeAlias = DatasetName | LayerName | MagName


def parse_resource(text: str, *, field: str = "name") -> ResourceName:
    """Read the name of a dataset, a layer or a mag, whichever it is.

    :param field: where the text came from, for the error
    :raises InvalidRequest: INVALID_NAME
    """
    kinds: dict[int, type[DatasetName | LayerName | MagName]] = {2: DatasetName, 4: LayerName}
    return kinds.get(text.count("/") + 1, MagName).parse(text, field=field)


def check_new_name(field: str, value: str) -> None:
    """Refuse a name that magd does not give to anything.

    :raises InvalidRequest: INVALID_NAME
    """
    if not _NEW_NAME.fullmatch(value):
        raise _invalid(
            field,
            value,
            "a new name has only letters, digits and _ $ @ - . and does not start with a dot",
        )
    if len(value) > _MAX_NAME_BYTES:
        raise _invalid(field, value, f"it has {len(value)} bytes, more than {_MAX_NAME_BYTES}")


def check_existing_name(field: str, value: str) -> None:
    """Refuse a name that nothing on disk is served under.

    :raises InvalidRequest: INVALID_NAME
    """
    problem = name_problem(value)
    if problem:
        raise _invalid(field, value, problem)


@lru_cache(maxsize=256)
def _mag_name(text: str, field: str) -> MagName:
    # The one that each of thousands of boxes a second names.
    dataset, layer, mag = _parts(text, ("datasets", "layers", "mags"), field)
    try:
        return MagName(dataset, layer, Mag.of(mag))
    except ValueError:
        raise _invalid(field, text, f"{shown(mag)} is not a mag like '2' or '2-2-1'") from None


def _parts(text: str, collections: tuple[str, ...], field: str) -> list[str]:
    parts = text.split("/")
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        pattern = "/".join(f"{collection}/{{{collection[:-1]}}}" for collection in collections)
        raise _invalid(field, text, f"it is not like {pattern}")
    for part in parts[1::2]:
        problem = name_problem(part)
        if problem:
            raise _invalid(field, text, f"{shown(part)}: {problem}")
    return parts[1::2]


def _invalid(field: str, value: str, why: str) -> InvalidRequest:
    # Names arrive from anybody; errors travel in HTTP/2 trailers, which hold 8 KiB. `shown` also escapes what
    # cannot be printed or is not Unicode.
    return InvalidRequest(
        f"{field} {shown(value)} is not a name to use: {why}",
        reason=Reason.INVALID_NAME,
        metadata={"field": field, "value": shown(value)},
    )
