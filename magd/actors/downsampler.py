"""Starting a downsampling: what is refused, which mags are made from which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.actors.dataset import DatasetActor
from magd.actors.downsample import DownsampleRun, Parts, Step
from magd.actors.opening import find_served, unserved
from magd.catalog.names import LayerName, MagName
from magd.downsampling.plan import SamplingMode, check_chain, coarser_mags, default_method
from magd.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.acknowledgement import Revision
    from magd.actors.operations import Operation, Operations
    from magd.actors.types import OperationInfo
    from magd.downsampling.kernels import Method
    from magd.geometry import BoundingBox, Box, Mag
    from magd.properties.file import Snapshot
    from magd.properties.model import LayerProperties

KIND: Final = "downsample"


@dataclass(frozen=True, slots=True)
class DownsampleRequest:
    """Which coarser mags to build from which, and how."""

    layer: LayerName
    source: Mag | None = None
    """None: the finest one."""
    targets: tuple[Mag, ...] = ()
    """Finest first; empty: by `sampling_mode`, or with `update` all coarser mags that exist."""
    sampling_mode: SamplingMode = SamplingMode.ANISOTROPIC
    coarsest: Mag | None = None
    method: Method | None = None
    """None: what suits the layer."""
    update: bool = False
    """Bring mags that exist up to date."""
    region: BoundingBox | None = None
    """With `update`: only what it touches."""
    changed_since: Revision | None = None
    """With `update`: only what was written to the source after this revision."""


class Downsampler:
    """Builds coarser mags and brings them up to date."""

    def __init__(self, parts: Parts, operations: Operations) -> None:
        self._parts: Final = parts
        self._operations: Final = operations

    async def start(self, request: DownsampleRequest) -> OperationInfo:
        """Begin, in a turn of the coordinator. A request for no mag at all is done at once.

        :raises InvalidRequest: the mags cannot be made one from the other; `region` or `changed_since` without `update`
        :raises NotFound: no such layer; no source; with `update`: a mag is missing
        :raises AlreadyExists: without `update`: one of the mags exists
        :raises OutOfBounds: EVENTS_LOST: `changed_since` lies too far back
        :raises Conflict: OPERATION_IN_PROGRESS
        """
        name = request.layer
        for field, value in (("region", request.region), ("changed_since", request.changed_since)):
            if value is not None and not request.update:
                raise InvalidRequest(f"{field} goes with update", metadata={"field": field, "value": value})
        snapshot = await self._parts.registry.with_dataset(name.dataset_name, DatasetActor.current)
        layer = _require_layer(snapshot, name)
        source = _source_of(layer, request)
        find_served(snapshot, MagName(name.dataset, name.layer, source))
        running = self._operations.running(str(name))
        if running is not None:
            raise Conflict(
                f"{running.name} runs on {running.resource}",
                reason=Reason.OPERATION_IN_PROGRESS,
                metadata={"operation": running.name},
            )
        steps = (
            _update_steps(layer, source, request) if request.update else _build_steps(snapshot, layer, source, request)
        )
        if not steps:
            return self._operations.done(KIND, str(name), str(name))
        assert layer.category is not None, "a served layer has a category"
        method = request.method or default_method(layer.category)
        boxes = await self._boxes(layer, source, request) if request.update else []

        async def work(operation: Operation) -> str:
            run = DownsampleRun(self._parts, name, steps, method, operation)
            return await (run.bring_up_to_date(boxes) if request.update else run.build())

        return self._operations.start(KIND, str(name), work)

    async def _boxes(self, layer: LayerProperties, source: Mag, request: DownsampleRequest) -> list[Box]:
        """What to bring up to date, in voxels of the source."""
        within = layer.bounding_box.in_mag(source)
        if request.region is not None:
            within = within.intersection(request.region.in_mag(source))
        boxes = [within]
        if request.changed_since is not None:
            since, name = request.changed_since, MagName(request.layer.dataset, request.layer.layer, source)
            changed = await self._parts.registry.with_mag(name, lambda actor: actor.changes_since(since))
            boxes = [box.intersection(within) for box in changed]
        return [box for box in boxes if not box.is_empty]


def _require_layer(snapshot: Snapshot, name: LayerName) -> LayerProperties:
    layer = snapshot.properties.layer(name.layer)
    if layer is None:
        raise NotFound(f"{name} does not exist", reason=Reason.LAYER_NOT_FOUND)
    if layer.unserved_reason:
        raise unserved(str(name), layer.unserved_reason, layer.data_format)
    return layer


def _source_of(layer: LayerProperties, request: DownsampleRequest) -> Mag:
    if request.source is not None:
        return request.source
    if not layer.mags:
        raise NotFound(f"{request.layer} has no mag to start from", reason=Reason.MAG_NOT_FOUND)
    return layer.mags[0].mag


def _build_steps(snapshot: Snapshot, layer: LayerProperties, source: Mag, request: DownsampleRequest) -> Sequence[Step]:
    targets = list(request.targets) or coarser_mags(
        source, snapshot.properties.voxel_size, layer.bounding_box, request.sampling_mode, request.coarsest
    )
    for mag in targets:
        if layer.mag(mag) is not None:
            raise AlreadyExists(
                f"{request.layer} has mag {mag}; update it, or delete it first",
                reason=Reason.MAG_EXISTS,
                metadata={"field": "target_mags", "value": mag},
            )
    check_chain(source, targets)
    return [Step(*pair) for pair in zip([source, *targets], targets, strict=False)]


def _update_steps(layer: LayerProperties, source: Mag, request: DownsampleRequest) -> Sequence[Step]:
    """Each mag from the coarsest of those before that it is a multiple of."""
    there = [entry.mag for entry in layer.mags if not entry.unserved_reason]
    for mag in request.targets:
        if mag not in there:
            raise NotFound(
                f"{request.layer} has no mag {mag} to update",
                reason=Reason.MAG_NOT_FOUND,
                metadata={"field": "target_mags", "value": mag},
            )
    targets = request.targets or [mag for mag in there if _is_multiple(mag, source)]
    steps: list[Step] = []
    for target in targets:
        finer = [mag for mag in (source, *(step.target for step in steps)) if _is_multiple(target, mag)]
        check_chain(finer[-1] if finer else source, [target])
        steps.append(Step(finer[-1] if finer else source, target))
    return steps


def _is_multiple(mag: Mag, of: Mag) -> bool:
    return mag != of and min(mag.factor // of.factor) >= 1
