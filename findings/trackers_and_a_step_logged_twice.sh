#!/usr/bin/env bash
# wandb 0.31.0, mlflow 3.17.2, trackio 0.43.0: a step that is logged twice is three different curves.
# Expected: a training run that was killed and goes on from its last checkpoint logs some steps again; a tracker takes the newer value, or says
# that it doesn't.
# What happens: logged were (step, value) 10 1, 20 2, then again 10 3, 20 4, then 30 5. Weights & Biases leaves out what is earlier than its
# newest step, with a warning, and overwrites the newest one: 10 1, 20 4, 30 5, a curve that neither run had. MLflow and Trackio keep all five
# without a word, so the curve runs back in time and its mean over steps counts a part twice.
# Seen: 1 warning of wandb; 5 points in MLflow; 5 points in Trackio.
# Hurt: curves of resumed runs can't be compared between trackers. Whoever resumes must remember which step was sent last, and send none twice.
set -euo pipefail
work=$(mktemp -d /tmp/trackers.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet wandb==0.31.0 mlflow==3.17.2 trackio==0.43.0
cat > log.py <<'EOF'
import sqlite3

import mlflow
import trackio
import wandb

LOGGED = ((10, 1.0), (20, 2.0), (10, 3.0), (20, 4.0), (30, 5.0))
run = wandb.init(project="p", settings=wandb.Settings(console="off", silent=True))
for step, value in LOGGED:
    run.log({"x": value}, step=step)
run.finish()
client = mlflow.MlflowClient("sqlite:///mlflow.db")
mine = client.create_run(client.create_experiment("e")).info.run_id
for step, value in LOGGED:
    client.log_metric(mine, "x", value, step=step)
kept = client.get_metric_history(mine, "x")
local = trackio.init(project="p", embed=False, auto_log_gpu=False, auto_log_cpu=False)
for step, value in LOGGED:
    local.log({"x": value}, step=step)
local.finish()
rows = sqlite3.connect("trackio/p.db").execute("select step from metrics order by id").fetchall()
print("points", len(kept), [m.step for m in kept] == [s for s, _ in LOGGED], len(rows), [s for (s,) in rows] == [s for s, _ in LOGGED])
EOF
export WANDB_MODE=offline TRACKIO_DIR="$work/trackio"
venv/bin/python log.py > said 2> errors
warnings=$(grep -c "less than the current step" errors)
grep points said
echo "warnings of wandb: $warnings"
grep -q "points 5 True 5 True" said && test "$warnings" = 1
