"""benchmark page FILE.json ... --out docs/performance.md: writes tables into a page, from the JSON that `benchmark --json` kept.

What stands between

    <!-- table: NAME -->
    <!-- end -->

is made anew, NAME being the file's; all else on the page stays.  So no number of such a table is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from arcturus.errors import ConfigError, nearest
from benchmarks.measuring.machine import said
from benchmarks.measuring.timing import amount

BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def block(kept: dict[str, Any]) -> str:
    """The Markdown of one JSON file: command, machine, and its tables."""
    before, after = kept["load"]
    lines = [f"`{kept['command']}`", "", f"{said(kept)}; load {before:.1f} before, {after:.1f} after.", ""]
    for table in kept["tables"]:
        lines += [*rows(table), ""]
    return "\n".join(lines)


def rows(table: dict[str, Any]) -> list[str]:
    """A table's lines: medians with the lowest and highest window, and ratios as report() found them."""
    windows = f"median of {len(table['rows'][0]['windows'])} windows of {table['seconds']:g} s"
    second = table["besides"]
    notes = any(row["note"] for row in table["rows"])
    heads = [
        table["title"],
        f"{table['unit']}, {windows}",
        "ratio",
        *([f"to {second}"] if second else []),
        *([""] if notes else []),
    ]
    out = [line(heads), "|" + "---|" * len(heads)]
    for row in table["rows"]:
        spread = f"[{amount(min(row['windows']))}, {amount(max(row['windows']))}]"
        ratios = [f"{row['ratio']:.2f}", *([f"{row['beside']:.2f}"] if second else [])]
        name = row["name"]
        if name.startswith("arcturus"):
            name = name.replace("arcturus", "**arcturus**", 1)
            ratios = [f"**{ratio}**" for ratio in ratios]
        out.append(line([name, f"{amount(row['median'])} {spread}", *ratios, *([row["note"]] if notes else [])]))
    return out


def line(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def rewritten(page: str, blocks: dict[str, str]) -> str:
    """The page with the tables of these names made anew; ConfigError for a name it has no place for."""
    names = [found[2] for found in BLOCK.finditer(page)]
    for name in blocks:
        if name not in names:
            raise ConfigError(
                f"the page has no place for the table {name!r}",
                where="<!-- table: NAME --> ... <!-- end -->",
                fix=nearest(name, names, "tables") + "; or add the two lines where it should stand",
            )
    return BLOCK.sub(lambda m: m[1] + blocks.get(m[2], m[3]) + m[4], page)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmark page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE.md")
    args = parser.parse_args(argv)
    blocks: dict[str, str] = {}
    for file in args.files:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if not all("seconds" in table for table in kept.get("tables", [{}])):
            raise ConfigError("the page has tables of rates only", where=str(file), fix="give JSON of env, replay, dqn, ppo ...")
        if kept["name"] in blocks:
            raise ConfigError(f"two files are the table {kept['name']!r}", where=str(file), fix="give one of them")
        blocks[kept["name"]] = block(kept)
    args.out.write_text(rewritten(args.out.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    print(f"{args.out}: {', '.join(blocks)}")
    return 0
