"""Resource names: datasets/{dataset}/layers/{layer}/mags/{mag}, operations/{id}."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from magd.errors import InvalidRequest, Reason
from magd.geometry import Mag, MagLike


class Named(Protocol):
    """Anything with a resource name: a handle or an info."""

    @property
    def name(self) -> str:
        """The full resource name."""


Resource: TypeAlias = Named | str
"""A handle, an info, or a full resource name."""


def resource_name(resource: Resource | None) -> str:
    """The name of a resource; empty for None, which means everything."""
    if resource is None:
        return ""
    return resource if isinstance(resource, str) else resource.name


def dataset_name(dataset: str) -> str:
    """The full name of a dataset.

    :raises InvalidRequest: it cannot be part of a name
    """
    return f"datasets/{_part('dataset', dataset)}"


def layer_name(dataset: str, layer: str) -> str:
    """The full name of a layer, of a dataset's full name.

    :raises InvalidRequest: it cannot be part of a name
    """
    return f"{dataset}/layers/{_part('layer', layer)}"


def mag_name(layer: str, mag: Mag) -> str:
    """The full name of a mag, of a layer's full name."""
    return f"{layer}/mags/{mag.name}"


def operation_name(operation: str) -> str:
    """The full name of an operation, of its full name or its id.

    :raises InvalidRequest: it cannot be part of a name
    """
    return f"operations/{_part('operation', operation.removeprefix('operations/'))}"


def last_part(name: str) -> str:
    """The last part of a full name: what a user calls it."""
    return name.rpartition("/")[2]


def mag_of(value: MagLike) -> Mag:
    """Make a mag of what a user gave.

    :raises InvalidRequest: it is no mag
    """
    try:
        return Mag.of(value)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            str(error), reason=Reason.INVALID_NAME, metadata={"field": "mag", "value": value}
        ) from None


def _part(field: str, value: str) -> str:
    # A slash would address another resource than the one that was meant. All other rules are the daemon's.
    if not value or "/" in value or "\0" in value:
        raise InvalidRequest(
            f"{field} {value!r} cannot be a name: it is empty or has a slash or a NUL",
            reason=Reason.INVALID_NAME,
            metadata={"field": field, "value": value},
        )
    return value
