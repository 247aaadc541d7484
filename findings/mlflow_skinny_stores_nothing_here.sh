#!/usr/bin/env bash
# mlflow-skinny 3.17.2: with no server it can store nothing, neither where it wants to by itself nor in files.
# Expected: the small package tracks runs on this machine, as it did with ./mlruns; or its default is something that it can do.
# What happens: its default is sqlite:///mlflow.db, which it refuses, as databases are a part of the large package; files, which it can write,
# are refused as being "in maintenance mode" unless MLFLOW_ALLOW_FILE_STORE=true is set.
# Seen: UnsupportedModelRegistryStoreURIException by default, MlflowException with file:; with the variable set a run is stored.
# Hurt: a training job on a machine without a tracking server fails at its first call, after it was installed and imported without a word.
set -euo pipefail
work=$(mktemp -d /tmp/mlflow.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet mlflow-skinny==3.17.2
cat > store.py <<'EOF'
import os
import sys

import mlflow

if len(sys.argv) > 1:
    mlflow.set_tracking_uri(f"file://{os.getcwd()}/runs")
try:
    client = mlflow.MlflowClient()
    client.create_run(client.create_experiment("e"))
    print("stored")
except Exception as e:
    print(type(e).__name__)
EOF
unset MLFLOW_TRACKING_URI MLFLOW_ALLOW_FILE_STORE
default=$(venv/bin/python store.py 2> errors)
files=$(venv/bin/python store.py files 2> errors)
asked=$(MLFLOW_ALLOW_FILE_STORE=true venv/bin/python store.py files 2> errors)
echo "by default $default, in files $files, in files with the variable $asked"
test "$default" = UnsupportedModelRegistryStoreURIException && test "$files" = MlflowException && test "$asked" = stored
