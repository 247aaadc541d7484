"""A row of training can be read in an afternoon: how many files and lines of functions it runs through, and what docs/architecture.md
says of the way from the command to the loss."""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.loop import run
from arcturus.runs.settings import resolve
from arcturus.seeding import Seeds

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("agents", "core", "envs", "replay"))
MOST_FILES, MOST_LINES = 12, 600
SMALL = {"dqn": {"capacity": 400, "learning_starts": 32}, "ppo": {"horizon": 4, "minibatches": 2, "epochs": 1}}


def traced(name):
    """File -> lines of the functions that one row runs through, from the emulator's frame to the gradient step."""
    preset = {"dqn": "nature", "ppo": "atari"}[name]
    config = resolve(name, preset=preset, env={"id": "ALE/Pong-v5"}, agent=SMALL[name])
    codes = {}

    def note(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(OURS) and "<" not in frame.f_code.co_name:
            codes[frame.f_code] = None

    with arcturus.make("ALE/Pong-v5", 4, protocol=config.env.protocol) as envs:
        agent = agents.load(name).Agent(config.agent, envs.spec, torch.device("cpu"), Seeds(0))
        branch = Seeds(0).branch("env")
        rows = run(envs, agent, steps=10**6, seeds=lambda: branch.environments(4), generator=Seeds(0).torch("cpu"))
        for _ in range(12):  # numba compiles, and replay fills
            next(rows)
        sys.setprofile(note)
        try:
            while not next(rows).metrics:
                pass
        finally:
            sys.setprofile(None)
            rows.close()
    lines = defaultdict(int)
    for code in codes:
        lines[code.co_filename] += len(inspect.getsourcelines(code)[0])
    return lines


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_a_row_from_frame_to_gradient_stays_within_a_dozen_files(name):
    lines = traced(name)
    told = {str(Path(file).relative_to(ROOT)): count for file, count in lines.items()}
    assert {f"agents/{name}.py", "core/loop.py", "envs/atari.py", "core/optimizers.py"} <= told.keys()  # it is the whole way
    assert len(told) <= MOST_FILES, told
    assert sum(told.values()) <= MOST_LINES, told


def test_no_function_is_longer_than_sixty_lines():
    import ast

    long = []
    for folder in ("agents", "core", "envs", "replay", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:
                    long.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert not long


def test_the_way_from_command_to_loss_is_as_long_as_the_architecture_page_says():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| \d+ \| \[([\w/.]+\.py)\]\(\S+\) \| (\d+) \|", page, re.MULTILINE)
    counted = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file, _ in table}
    assert {file: int(lines) for file, lines in table} == counted
    told = re.search(r"(\d+) files, ([\d,]+) lines", page)
    assert (int(told[1]), int(told[2].replace(",", ""))) == (len(counted), sum(counted.values()))
    assert len(counted) <= 17
    assert sum(counted.values()) <= 2_900


def test_the_readme_is_short_and_its_line_count_is_dqns():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.split()) <= 1_000
    assert f"is {len((ROOT / 'agents' / 'dqn.py').read_text().splitlines())} lines" in page


def test_every_agent_stands_in_the_readme_and_the_names_before_it_nowhere():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in agents.names() if f"`{name}`" not in page] == []
    for doc in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert "train-agent teacher" not in doc.read_text(encoding="utf-8"), doc


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]))
def test_every_file_that_a_page_links_to_is_there(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()] == []
