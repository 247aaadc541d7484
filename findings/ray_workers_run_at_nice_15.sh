#!/usr/bin/env bash
# ray 2.60.0: what a task starts runs at niceness 15.
# Expected: a task that reserves a whole CPU, and the training process it starts, get that CPU as the same command in a shell would.
# What happens: Ray's workers lower their own priority to 15, and every process they start inherits it. Niceness 15 weighs 36 against the 1,024
# of niceness 0: beside any other busy process on the same core the task gets about a thirtieth of it. Nothing says so.
# RAY_worker_niceness=0 in the environment of whoever starts the node (here: the driver) changes it; a task can't lower it by itself.
# Seen: niceness of a subprocess of a task 15; with RAY_worker_niceness=0: 0.
# Hurt: two training runs of a sweep made 30 agent steps/s together beside two other trainings of the machine; with niceness 0 they made 600.
set -euo pipefail
work=$(mktemp -d /tmp/ray.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet ray==2.60.0
cat > ask.py <<'EOF'
import logging
import subprocess
import sys

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
         object_store_memory=80 * 2**20, _temp_dir=sys.argv[1])


@ray.remote(num_cpus=1)
def nice():
    return int(subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout)


print(ray.get(nice.remote()))
ray.shutdown()
EOF
export RAY_USAGE_STATS_ENABLED=0
own=$(nice)
plain=$(venv/bin/python ask.py "$work/a")
asked=$(RAY_worker_niceness=0 venv/bin/python ask.py "$work/b")
echo "niceness of this shell $own, of a subprocess of a task $plain, with RAY_worker_niceness=0 $asked"
test "$own" = 0 && test "$plain" = 15 && test "$asked" = 0
