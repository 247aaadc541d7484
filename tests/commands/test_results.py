"""Tables of docs/results.md are those of the JSON kept beside it."""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_switches_for_few_steps_is_made_from_its_runs():
    kept = json.loads((DOCS / "results" / "few-steps-beginnings.json").read_text(encoding="utf-8"))
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    games = sorted({run["game"] for run in kept["runs"]})
    found = {(run["variant"], run["game"]): run for run in kept["runs"]}
    for variant in {run["variant"] for run in kept["runs"]}:
        cells = []
        for game in games:
            run = found.get((variant, game))
            cells.append(f"{run['mean']:g} [{run['ci_low']:g}, {run['ci_high']:g}]" if run else "-")
        assert f"| `{variant}` | {' | '.join(cells)} |" in page
    assert kept["commit"] in page
