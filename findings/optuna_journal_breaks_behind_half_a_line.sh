#!/usr/bin/env bash
# optuna 5.0.0: a journal whose last line is half written can still be read, and is broken by the next trial.
# Expected: a process that was killed, or a disk that was full, in the middle of a line costs that line; the study goes on from the one before
# (reading does just that), or opening it says what is wrong.
# What happens: JournalFileBackend skips half a line at the end while it reads, but appends behind it without a line break. The half line and
# the next record become one line that is no JSON, so that record is lost and the study can't be opened any more.
# Seen: 1 trial is read from the journal with half a line; asking for the next one raises JSONDecodeError, and so does opening the study again.
# Hurt: a search that goes on after a crash; the journal has to be cut back to its last line break first, while nobody else writes.
set -euo pipefail
work=$(mktemp -d /tmp/optuna.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet optuna==5.0.0
cat > tell.py <<'EOF'
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)
spaces = {"x": optuna.distributions.FloatDistribution(0, 1)}


def opened():
    return optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend("journal")), load_if_exists=True)


def outcome(call):
    try:
        call()
    except Exception as e:
        return type(e).__name__
    return "works"


study = opened()
study.tell(study.ask(spaces), 1.0)
with open("journal", "ab") as file:
    file.write(b'{"op_code": 4, "work')
study = opened()
print(len(study.trials), outcome(lambda: study.tell(study.ask(spaces), 2.0)), outcome(opened))
EOF
said=$(venv/bin/python tell.py)
echo "trials read, the next trial, opening it again: $said"
test "$said" = "1 JSONDecodeError JSONDecodeError"
