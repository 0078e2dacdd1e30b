"""Running the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from click.testing import CliRunner

from magd.cli.main import cli


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error.

        A note that came before it is no part of it.
        """
        *notes, line = self.err.splitlines()
        assert all(text.startswith("magd: ") for text in notes), self.err
        assert line.startswith("magd: error: "), self.err
        assert "Traceback" not in self.err
        return line.removeprefix("magd: error: ")

    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)


class Magd(Protocol):
    """Runs a command; with `fails`, it must end with that status, else with 0."""

    def __call__(self, *arguments: object, fails: int = 0, stdin: str | None = None) -> Outcome: ...


@pytest.fixture
def magd() -> Magd:
    def run(*arguments: object, fails: int = 0, stdin: str | None = None) -> Outcome:
        # click 8.1 mixes stderr into stdout unless it is told not to; 8.2 never does and does not know the argument.
        try:
            runner = CliRunner(mix_stderr=False)
        except TypeError:
            runner = CliRunner()
        result = runner.invoke(cli, [str(argument) for argument in arguments], input=stdin, prog_name="magd")
        outcome = Outcome(result.exit_code, result.stdout, result.stderr)
        assert outcome.status == fails, outcome
        return outcome

    return run
