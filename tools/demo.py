"""make demo: trains DQN on a real Atari game, scores it beside both floors, films it, and says where to look.

Kung-Fu Master, because a few minutes on two CPU cores show learning beyond doubt: random play earns some 500 points, no single
action earns any.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from arcturus.config import user_path
from arcturus.scripts.frontend import guarded
from arcturus.telling import tell, typed

GAME, STEPS = "ALE/KungFuMaster-v5", 200_000


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--env", default=GAME)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=user_path, help="folder of the run; default: a new folder under demo/")
    args = parser.parse_args(argv)
    folder = args.run_dir or Path("demo") / f"{time.strftime('%Y%m%d-%H%M%S')}-s{args.seed}"
    from arcturus.scripts import evaluate_agent, train_agent

    began = time.perf_counter()
    settings = f"--preset cpu-small --steps {args.steps} --seed {args.seed} --eval-every {args.steps // 4} --eval-episodes 5"
    code = train_agent.main(["dqn", "--env", args.env, "--run-dir", str(folder), *settings.split()])
    if code:
        return code
    trained = time.perf_counter()
    film, figure = folder / "videos" / "film.mp4", folder / "videos" / "value.png"
    code = evaluate_agent.main([str(folder), "--episodes", "20", "--floors", "--video", str(film), "--value-figure", str(figure)])
    tell(
        f"\ntrained in {trained - began:.0f} s, scored and filmed in {time.perf_counter() - trained:.0f} s\n"
        f"film          {film}\nvalue figure  {figure}\n"
        f"curves        tensorboard --logdir {typed(folder)}   (in {Path(sys.executable).parent})"
    )
    return code


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
