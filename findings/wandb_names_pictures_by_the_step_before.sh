#!/usr/bin/env bash
# wandb 0.31.0: the file of a picture bears the number of the step before it.
# Expected: a picture that is logged with step=50 lies in media/images/NAME_50_..., as its row is that of step 50.
# What happens: the name is made before the run moves on to the step that was given, so the first picture is called NAME_0_... and every other
# one has the number of whatever was logged before it.
# Seen: pictures logged at steps 50 and 70, with a number at step 60 between them, lie in a_0_... and a_60_...
# Hurt: whoever takes pictures from an offline run's folder, or from a download of its files, by their names, puts each at an earlier step;
# filters and attention maps of training seem to appear before they were learned. The step in the run's own rows is right.
set -euo pipefail
work=$(mktemp -d /tmp/wandb.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet wandb==0.31.0 pillow==12.3.0
cat > log.py <<'EOF'
import wandb
from PIL import Image

run = wandb.init(project="p", settings=wandb.Settings(console="off", silent=True))
run.log({"a": wandb.Image(Image.new("L", (8, 8), 10))}, step=50)
run.log({"x": 1.0}, step=60)
run.log({"a": wandb.Image(Image.new("L", (8, 8), 20))}, step=70)
run.finish()
EOF
WANDB_MODE=offline venv/bin/python log.py > said 2> errors
names=$(find wandb -name '*.png' -printf '%f\n' | cut -d_ -f1,2 | sort | tr '\n' ' ')
echo "pictures of steps 50 and 70: $names"
test "$names" = "a_0 a_60 "
