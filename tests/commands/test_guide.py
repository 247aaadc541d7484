"""Every block of docs/guide runs: in order, a page in a folder and a process of its own, with the commands on the PATH.

A page shows what a user types.  A comment right above a block says what is otherwise here:

    <!-- in the test: --steps 2000 -->     these values instead, wherever the block gives the flag (of Python: steps=2000)
    <!-- not in the test: why -->          it isn't run; NOT_RUN below lists every one of these

```python blocks share one namespace, ```sh blocks run by bash -e, a fence with title=FILE is written as that file, ```text is output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted(page.name for page in GUIDE.glob("*.md"))
FAST: set[str] = {"README.md"}  # pages that take less than 5 seconds
NOT_RUN = {("first-run.md", "it installs"), ("first-run.md", "it serves until it is stopped"), ("first-run.md", "7 minutes")}
FENCE = re.compile(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r"<!-- (in|not in) the test: (.+) -->\n\Z")


class Block(NamedTuple):
    line: int  # of its first line, from 1
    language: str
    file: str  # "" if it is run, not written
    source: str  # as it runs here
    not_run: str  # why, or ""


def shortened(source: str, values: str) -> str:
    """The source with other values for some flags (--steps 2000) or arguments (steps=2000); a ValueError for what isn't in it."""
    for name, value in re.findall(r"([\w.-]+)[ =](\S+)", values):
        given = rf"({name}\s+)\S+" if name.startswith("--") else rf"(\b{name}=)[^,)]+"
        source, found = re.subn(given, rf"\g<1>{value}", source)
        if not found:
            raise ValueError(f"nothing to be changed: {name}")
    return source


def blocks(page: str) -> list[Block]:
    text = (GUIDE / page).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, file, source = fence[1], fence[2] or "", fence[3]
        kind, told = note.groups() if (note := NOTE.search(text[: fence.start()])) else ("", "")
        source = shortened(source, told) if kind == "in" else source
        found.append(Block(text.count("\n", 0, fence.start()) + 2, language, file, source, told if kind == "not in" else ""))
    return found


def run_page(page: str) -> None:
    """All of a page's blocks, in the current folder."""
    names: dict[str, object] = {"__name__": "__main__"}
    began = time.perf_counter()
    sys.path.insert(0, "")
    for block in blocks(page):
        if block.not_run or block.language == "text":
            continue
        print(f"--- {page}, line {block.line}, after {time.perf_counter() - began:.1f} s", flush=True)
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.source, encoding="utf-8")
        elif block.language == "sh":
            subprocess.run(["bash", "-e", "-c", block.source], check=True)
        else:  # with the page's own line numbers in a traceback
            exec(compile("\n" * (block.line - 1) + block.source, str(GUIDE / page), "exec"), names)  # noqa: S102


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """A folder with the console scripts and `python`, as an installation has them."""
    folder = tmp_path_factory.mktemp("bin")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    calls = {name: f"-c 'from {entry.replace(':', ' import ')} as main; main()' " for name, entry in scripts.items()}
    for name, call in (calls | {"python": ""}).items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call}"$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [pytest.param(p, marks=() if p in FAST else pytest.mark.slow) for p in PAGES])
def test_every_block_of_the_guide_runs(page, commands, tmp_path):
    surroundings = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    del surroundings["XDG_CONFIG_HOME"]  # which conftest.py sets
    done = subprocess.run(
        [sys.executable, __file__, page], cwd=tmp_path, env=surroundings, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6_000:]


def test_no_block_is_left_out_but_those_that_are_known():
    assert {(page, b.not_run) for page in PAGES for b in blocks(page) if b.not_run} == NOT_RUN


@pytest.mark.parametrize("page", PAGES)
def test_no_fence_of_the_guide_escapes_the_test(page):
    """Each is of a language that is known, and each note stands right above a block."""
    text = (GUIDE / page).read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page))
    assert {b.language for b in blocks(page)} <= {"python", "sh", "text", "yaml"}
    assert text.count("<!--") == sum(NOTE.search(text[: f.start()]) is not None for f in FENCE.finditer(text))


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_guide_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", (GUIDE / page).read_text(encoding="utf-8"))):
        assert target.startswith("https://") or (GUIDE / target).exists(), target


def test_the_index_names_every_page():
    index = (GUIDE / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in index] == []


def test_a_note_changes_the_values_it_names_and_no_others():
    assert (
        shortened("evaluate-agent RUN --lengths 1,2,3 --seed 5\n", "--lengths 4,5")
        == "evaluate-agent RUN --lengths 4,5 --seed 5\n"
    )
    assert shortened("train('dqn', steps=50_000, seed=1)", "steps=20 seed=3") == "train('dqn', steps=20, seed=3)"
    with pytest.raises(ValueError, match="--steps"):
        shortened("evaluate-agent RUN", "--steps 20")


if __name__ == "__main__":
    run_page(sys.argv[1])
