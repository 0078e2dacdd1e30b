"""The README and the pages in docs say what is true: links lead somewhere, and what they show to be run runs.

- Every ```python block of a page is run, all of a page as one script.
- Every command `$ magd ...` in a ```console block is run, but for `magd serve`, of which the test starts one. Lines
  behind a command are what it prints; `...` stands for any text.
- Every ```javascript block is run by Node.js, where the packages of tests/nodejs are installed.
- Every test that a page names (`tests/FILE.py::NAME`) exists.
- A comment behind a print (`print(x)  # text`, `console.log(x); // text`) is what it prints.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from tests.support.daemon import MAGD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve
    from tests.support.daemon import Daemon

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
NODE_MODULES: Final = REPOSITORY / "tests" / "nodejs" / "node_modules"

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_PRINTED: Final = re.compile(r"(?:print\(.*\)  # |console\.log\(.*\); // )(.*)$", re.MULTILINE)


def name_of(page: Path) -> str:
    """The path of a page in the repository."""
    return str(page.relative_to(REPOSITORY))


def pages_with(language: str) -> list[Path]:
    """The pages that have blocks of a language."""
    return [page for page in PAGES if blocks(page, language)]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [text for kind, text in _FENCE.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may name, as GitHub makes it of the text of the heading."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block."""

    line: str
    printed: str
    """What the page shows of its output."""


def commands(page: Path) -> Iterator[Command]:
    """The commands of all console blocks of a page."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.replace("\\\n", " ").partition("\n")
            yield Command(line, printed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where snippets run: with files that they import, and nothing else."""
    import nibabel
    import tifffile

    folder = tmp_path / "work"
    (folder / "slices").mkdir(parents=True)
    rng = np.random.default_rng(7)
    volume = rng.integers(0, 1000, (70, 60, 20), dtype=np.uint16)
    image: Any = nibabel.Nifti1Image  # its types are incomplete
    nibabel.save(image(volume, np.eye(4)), folder / "scan.nii.gz")
    np.save(folder / "labels.npy", volume.transpose().astype(np.int64))
    for z in range(4):
        tifffile.imwrite(folder / "slices" / f"slice{z}.tif", volume[:, :, z].T.astype(np.uint8))
    tifffile.imwrite(folder / "stack.tif", volume.transpose())
    return folder


@pytest.fixture
def daemon(serve: Serve, tmp_path: Path) -> Daemon:
    """A daemon on an empty root."""
    root = tmp_path / "root"
    root.mkdir()
    return serve(root)


def run(command: list[str] | str, daemon: Daemon, folder: Path, **environment: str) -> str:
    """Run a program as a reader would, and return what it printed."""
    result = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env={**os.environ, "MAGD_SERVER": daemon.grpc, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for page in PAGES:
        for path, name in _TEST.findall(page.read_text()):
            file = REPOSITORY / path
            if not file.is_file() or (name and f"def {name}(" not in file.read_text()):
                missing.append(f"{name_of(page)}: {path} {name}")
    assert missing == []


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_snippets_run_and_print_what_they_say(page: Path, daemon: Daemon, folder: Path) -> None:
    script = "\n\n".join(blocks(page, "python"))
    (folder / "snippets.py").write_text(script)
    # The one warning that is let through is of the webknossos package, about readers that it does without.
    warnings = ["-W", "error", "-W", "ignore:[WARNING] Not all image readers"]
    printed = run([sys.executable, *warnings, "snippets.py"], daemon, folder)
    assert set(_PRINTED.findall(script)) <= set(printed.splitlines())


@pytest.mark.parametrize("page", pages_with("console"), ids=name_of)
def test_commands_run_and_print_what_is_shown(page: Path, daemon: Daemon, folder: Path) -> None:
    programs = folder.parent / "bin"
    programs.mkdir()
    (programs / "magd").write_text(f'#!/bin/sh\nexec {" ".join(MAGD)} "$@"\n')
    (programs / "magd").chmod(0o755)
    for command in commands(page):
        if not command.line.startswith("magd ") or command.line.startswith("magd serve "):
            continue
        printed = run(command.line, daemon, folder, PATH=f"{programs}:{os.environ['PATH']}")
        shown = ".*".join(re.escape(text) for text in command.printed.rstrip().split("..."))
        assert re.fullmatch(shown, printed.rstrip(), re.DOTALL) or not command.printed, command.line


@pytest.mark.skipif(not NODE_MODULES.is_dir() or shutil.which("node") is None, reason="no packages of tests/nodejs")
@pytest.mark.parametrize("page", pages_with("javascript"), ids=name_of)
def test_javascript_snippets_run_and_print_what_they_say(page: Path, daemon: Daemon, folder: Path) -> None:
    # What a page shows in Python comes before it, and leaves what the JavaScript reads.
    python = "\n\n".join(blocks(page, "python"))
    run([sys.executable, "-c", python], daemon, folder)
    script = "\n".join(blocks(page, "javascript"))
    (folder / "snippets.cjs").write_text(script)
    printed = run(["node", str(folder / "snippets.cjs")], daemon, REPOSITORY, NODE_PATH=str(NODE_MODULES))
    assert set(_PRINTED.findall(script)) <= set(printed.splitlines())


def test_the_table_of_metrics_is_complete(daemon: Daemon) -> None:
    with urllib.request.urlopen(f"http://{daemon.http}/metrics") as response:
        served = re.findall(r"^# TYPE (magd_\w+) (\w+)$", response.read().decode(), re.MULTILINE)
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    documented = re.findall(r"^\| `(magd_\w+)` \| (\w+) \|", page, re.MULTILINE)
    # Each counter has a gauge with the time of its creation beside it.
    assert sorted(documented) == sorted(each for each in served if not each[0].endswith("_created"))


def test_every_reason_has_a_line_in_the_page_of_errors() -> None:
    from magd.errors import Reason

    page = (REPOSITORY / "docs" / "reference" / "errors.md").read_text()
    documented = re.findall(r"^\| \d+ \| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(documented) == sorted(reason for reason in Reason if reason is not Reason.UNSPECIFIED)
