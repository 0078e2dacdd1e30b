"""The root folder: which datasets lie in it, and where the folders of their layers and mags are.

Links are common in these trees (a layer shared by two datasets is a link), so they are followed, but never
out of the root. A path is checked by resolving all links in it and looking where it ends. Where a mag lies is
found in this order: the path that the properties give, then the short name in the layer's folder, then the
long one.

Nothing here writes.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from magd.catalog.names import DatasetName, MagName, check_existing_name
from magd.errors import InvalidRequest, NotAllowed, NotFound, Reason, from_os_error
from magd.properties.file import PROPERTIES_NAME
from magd.properties.forms import name_problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd.properties.model import LayerProperties, MagProperties


class Root:
    """One root folder.

    :param path: of the folder; links in it are resolved once, now
    :param read_only: for whoever asks; nothing here depends on it
    :raises InvalidRequest: there is no such folder
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.path: Final = os.path.realpath(path)
        self.read_only: Final = read_only
        if not os.path.isdir(self.path):
            raise InvalidRequest(f"{path} is not a folder", metadata={"field": "root", "value": path})

    def dataset_names(self, *, after: str | None = None) -> Iterator[str]:
        """The names of all datasets, sorted, behind `after`.

        A dataset is a folder with a datasource-properties.json. Only names are held in memory; whether each
        is a dataset is looked at when its turn comes, so taking one page is cheap. Hidden folders and folders
        whose name is not Unicode are left out. A link that leaves the root is among them: asking for it tells
        why it is not served.

        :raises DataLoss: the root cannot be read
        """
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            raise from_os_error(error, self.path) from error
        for name in sorted(names):
            if after is not None and name <= after:
                continue
            if name_problem(name) is None and os.path.isfile(os.path.join(self.path, name, PROPERTIES_NAME)):
                yield name

    def dataset_folder(self, name: DatasetName) -> str:
        """The folder of a dataset. It may be a link to another place below the root.

        :raises NotFound: DATASET_NOT_FOUND: there is no folder of this name with a datasource-properties.json
        :raises NotAllowed: OUTSIDE_ROOT: it is a link that leaves the root
        :raises InvalidRequest: INVALID_NAME
        """
        check_existing_name("dataset", name.dataset)
        folder = os.path.join(self.path, name.dataset)
        self._inside(folder)
        if not os.path.lexists(os.path.join(folder, PROPERTIES_NAME)):
            raise NotFound(
                f"there is no dataset {shown(name.dataset)} in {self.path}",
                reason=Reason.DATASET_NOT_FOUND,
                metadata={"dataset": shown(name.dataset)},
            )
        return folder

    def properties_path(self, name: DatasetName) -> str:
        """The datasource-properties.json of a dataset. For what is raised see `dataset_folder`."""
        return os.path.join(self.dataset_folder(name), PROPERTIES_NAME)

    def layer_folder(self, dataset: DatasetName, layer: LayerProperties) -> str:
        """The folder of a layer. It may be a link to another place below the root.

        :raises NotFound: LAYER_NOT_FOUND: it has none
        :raises NotAllowed: OUTSIDE_ROOT: it is a link that leaves the root
        """
        check_existing_name("layer", layer.name)
        folder = os.path.join(self.dataset_folder(dataset), layer.name)
        if not self._is_folder(folder):
            raise NotFound(
                f"layer {shown(layer.name)} of {dataset} has no folder",
                reason=Reason.LAYER_NOT_FOUND,
                metadata={"file": folder},
            )
        return folder

    def mag_folder(self, dataset: DatasetName, layer: LayerProperties, mag: MagProperties) -> str:
        """The folder of a mag, with links resolved except a link in place of the folder itself.

        :raises NotFound: MAG_NOT_FOUND: the folder is missing
        :raises NotAllowed: OUTSIDE_ROOT: its path or a link leaves the root; UNSUPPORTED_DATA_FORMAT: it is
            not served
        """
        places = self.mag_places(dataset, layer, mag)
        for place in places:
            if self._is_folder(place):
                return place
        raise NotFound(
            f"mag {mag.mag} of layer {shown(layer.name)} of {dataset} has no folder; looked for {' and '.join(places)}",
            reason=Reason.MAG_NOT_FOUND,
            metadata={"file": places[0]},
        )

    def owned_mag_folder(self, dataset: DatasetName, layer: LayerProperties, mag: MagProperties) -> str:
        """The folder of a mag like `mag_folder`, if it may be moved away with the mag.

        :raises NotFound: MAG_NOT_FOUND: it is missing, or lies in another dataset, to which it belongs
        """
        folder = self.mag_folder(dataset, layer, mag)
        if not is_below(folder, os.path.realpath(self.dataset_folder(dataset))):
            raise NotFound(
                f"mag {mag.mag} of layer {shown(layer.name)} of {dataset} lies in another dataset: {folder}",
                reason=Reason.MAG_NOT_FOUND,
                metadata={"file": folder},
            )
        return folder

    def mag_places(self, dataset: DatasetName, layer: LayerProperties, mag: MagProperties) -> tuple[str, ...]:
        """Where a mag's folder may lie, in the order in which it is looked for.

        :return: absolute paths; links are resolved, except one in place of the folder itself
        :raises NotAllowed: OUTSIDE_ROOT: a place is not below the root; UNSUPPORTED_DATA_FORMAT: not served
        """
        if mag.unserved_reason:
            raise NotAllowed(
                f"{MagName(dataset.dataset, layer.name, mag.mag)} is not served: {mag.unserved_reason}",
                reason=Reason.UNSUPPORTED_DATA_FORMAT,
                metadata={"mag": mag.mag},
            )
        folder = self.dataset_folder(dataset)
        if mag.path is not None:
            return (self._place(os.path.join(folder, mag.path)),)
        check_existing_name("layer", layer.name)
        names = dict.fromkeys((mag.mag.name, mag.mag.long_name))
        return tuple(self._place(os.path.join(folder, layer.name, name)) for name in names)

    def _place(self, path: str) -> str:
        """Resolve what is before the last part of a path."""
        before, last = os.path.split(path.rstrip("/"))
        if last in ("", ".", ".."):
            return self._inside(path)
        return os.path.join(self._inside(before, may_be_root=True), last)

    def _is_folder(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(self._inside(path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if isinstance(error, NotAllowed):
                raise
            raise from_os_error(error, path) from error

    def _inside(self, path: str, *, may_be_root: bool = False) -> str:
        resolved = os.path.realpath(path)
        if is_below(resolved, self.path) or (may_be_root and resolved == self.path):
            return resolved
        raise NotAllowed(
            f"{path[:200]} leads to {resolved[:200]}, which is not below the root {self.path}",
            reason=Reason.OUTSIDE_ROOT,
            metadata={"file": path[:200]},
        )


def is_below(path: str, folder: str) -> bool:
    """Whether a path, of which nothing is looked up, lies somewhere in a folder."""
    return path != folder and os.path.commonpath([path, folder]) == folder
