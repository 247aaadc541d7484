"""sweep-agents: many runs, agents x environments x settings x seeds, on one machine or a Ray cluster.

  sweep-agents run SWEEP.yaml                runs what is still to be run; the same command again goes on
  sweep-agents run SWEEP.yaml --address HOST:PORT     on a Ray cluster that shares the folder
  sweep-agents list SWEEP.yaml [--print]     its cells, or the command line of each; what a search tries
  sweep-agents status DIR                    how far a sweep is, from any shell

With search: in the file, settings are searched with Optuna, and the best compared with the preset's on fresh seeds.
A cell is an ordinary run folder made by train-agent, and scored by evaluate-agent if the file says evaluate.  A cell that
failed with its machine (exit codes 3, 5, 129, 130, 137, 143, a lost machine) is tried again; one that failed by itself is not, and stops
no other.
Exit codes: 0 all cells are done, 2 usage, 3 Ray, 4 a cell failed, 5 a cell's machine failed too often, 130 stopped.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from arcturus.scripts.frontend import command  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.errors import ArcturusError, ConfigError
from arcturus.sweeps.file import Cell, Sweep, flags_of, read_sweep


def parser() -> argparse.ArgumentParser:
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="sweep-agents", description=__doc__, formatter_class=how, allow_abbrev=False)
    doing = p.add_subparsers(dest="doing", required=True, metavar="run|list|status")
    for name, text in (("run", "run what is still to be run"), ("list", "show the cells")):
        one = doing.add_parser(name, help=text, allow_abbrev=False)
        one.add_argument("sweep", type=Path, metavar="SWEEP", help="a YAML file, or the name of a sweep that comes along")
        one.add_argument("--out", type=user_path, metavar="DIR", help="folder of the runs, instead of the file's own")
        if name == "run":
            one.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; default: this machine alone")
            one.add_argument("--cpus", type=float, metavar="N", help="CPUs of this machine to use; default: all")
        else:
            one.add_argument("--print", action="store_true", help="a shell line for each cell instead of its name")
    status = doing.add_parser("status", help="show how far a sweep is", allow_abbrev=False)
    status.add_argument("folder", type=user_path, metavar="DIR")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.doing == "status":
        from arcturus.sweeps.progress import cells_of, look, table

        print(table(look(args.folder, *cells_of(args.folder))))
        return 0
    sweep = read_sweep(args.sweep, args.out)
    check_cells(sweep)
    if args.doing == "list" and sweep.search:
        return list_search(sweep, args.print)
    if args.doing == "list":
        for cell in sweep.cells:
            print(" && ".join(map(shlex.join, sweep.commands(cell))) if args.print else cell.name)
        return 0
    if args.cpus is not None and args.cpus <= 0:
        raise ConfigError(f"{args.cpus:g} CPUs are too few", where="--cpus", fix="use a number above 0")
    if args.cpus is not None and args.address is not None:
        raise ConfigError("a cluster's CPUs are said where its machines are started", where="--cpus", fix="leave --cpus or --address out")
    from arcturus.sweeps.engine import run_sweep

    return run_sweep(sweep, args.address, args.cpus)


def corners(sweep: Sweep) -> list[Cell]:
    """A cell for each end of every range that is searched, the rest as the preset has it."""
    spaces = sweep.search.settings.items() if sweep.search else ()
    first = sweep.cells[0]
    tried = [(name, value) for name, space in spaces for value in space.samples()]
    return [replace(first, name=f"with {name} {value}", flags=(*first.flags, *flags_of({name: value}))) for name, value in tried]


def list_search(sweep: Sweep, commands: bool) -> int:
    """What a search would do; its settings are chosen while it runs."""
    if commands or sweep.search is None:
        fix = "leave --print out; sweep-agents run searches"
        raise ConfigError("a search has no command lines yet: its settings are chosen while it runs", where="--print", fix=fix)
    envs, seeds = ({getattr(cell, what): None for cell in sweep.cells} for what in ("env", "seed"))
    print(f"{sweep.search.trials} trials of {len(sweep.cells)} runs each: {sweep.cells[0].agent} on {', '.join(envs)}, seeds "
          f"{', '.join(map(str, seeds))}")  # fmt: skip
    for name, space in sweep.search.settings.items():
        print(f"  {name}: {space}")
    if sweep.search.confirm:
        print(f"then the best settings and the preset's on {sweep.search.confirm} fresh seeds")
    return 0


def check_cells(sweep: Sweep) -> None:
    """Every cell's flags, before the first one starts; of cells that differ only in their seed one is enough."""
    from arcturus.scripts.evaluate_agent import check_arguments
    from arcturus.scripts.evaluate_agent import parser as evaluation
    from arcturus.scripts.train_agent import parse

    seen = set()
    for cell in [*sweep.cells, *corners(sweep)]:
        if (cell.agent, cell.env, cell.flags) in seen:
            continue
        seen.add((cell.agent, cell.env, cell.flags))
        try:
            parse(cell.agent, [x for x in cell.train(sweep.out)[2:] if x != "--start-or-resume"])
        except ArcturusError as e:
            raise ConfigError(f"cell {cell.name}: {e.what}", where=e.where or sweep.where, fix=e.fix) from e
        except SystemExit as e:  # what is wrong has been said
            raise ConfigError(f"train-agent does not take the settings of cell {cell.name}", where=sweep.where) from e
    if sweep.evaluate is not None:
        check_arguments(evaluation().parse_args([str(sweep.out), *sweep.evaluate]))


cli = command(main)

if __name__ == "__main__":
    cli()
