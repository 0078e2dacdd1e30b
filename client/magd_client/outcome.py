"""What becomes of one box of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from magd.errors import MagdError
    from magd.geometry import Box

T = TypeVar("T")


class Outcome(Generic[T]):
    """The acknowledgement of a box that was written, or the voxels of one that was read, once it is known."""

    def __init__(self, box: Box, number: int, request_id: str = "") -> None:
        self.box: Final = box
        """In voxels of the mag."""
        self.number: Final = number
        """Of the call of the batch, from 0 on."""
        self.request_id: Final = request_id
        """Of a write: the same write with this id is applied at most once."""
        self._result: T | None = None
        self._error: MagdError | None = None

    @property
    def is_known(self) -> bool:
        """Whether the box was done, or has failed."""
        return self._error is not None or self._result is not None

    @property
    def error(self) -> MagdError | None:
        """Why it failed; None if it has not, or not yet."""
        return self._error

    def result(self) -> T:
        """What came of it.

        :raises MagdError: it failed
        :raises RuntimeError: it is not known yet: leave the batch, or flush it
        """
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError(f"the outcome of {self.box} is not known yet: leave the batch, or flush it")
        return self._result

    def succeed(self, result: T) -> None:
        """Set what came of it. For the batch."""
        self._result = result

    def fail(self, error: MagdError) -> None:
        """Set why it failed. For the batch."""
        self._error = error
