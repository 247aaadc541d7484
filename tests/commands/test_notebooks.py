"""The notebooks under docs/notebooks run in a kernel of their own, with fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
STEPS = {"first-run": (30_000, 3_000), "neural-turing-machine": (250_000, 4_000)}  # as printed, and here


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    printed, here = STEPS[name]
    source = "".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert f"STEPS = {printed:_}" in source
    for cell in book.cells:
        cell.source = cell.source.replace(f"STEPS = {printed:_}", f"STEPS = {here:_}")
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)  # a curve, and of the Turing machine its memory


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(STEPS)


def test_no_notebook_holds_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert '"outputs": []' in path.read_text(encoding="utf-8")
        assert '"image/png"' not in path.read_text(encoding="utf-8")
