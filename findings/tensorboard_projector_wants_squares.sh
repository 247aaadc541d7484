#!/usr/bin/env bash
# torch 2.13.0 with tensorboard 2.21.0: SummaryWriter.add_embedding takes wide label_img, but tall ones only by luck.
# Expected: label_img is documented as (N, C, H, W) without a word on proportions; the example there is 10 high and 32 wide.
# What happens: the images are laid out in ceil(sqrt(N)) columns and pasted into a SQUARE as wide as they are. If rows * H is more than
# columns * W, numpy can't: ValueError, and neither sprite nor vectors are written. It's never a wrong picture: a right one or none.
# Seen: 16 screens of 210 x 160: "could not broadcast input array from shape (840,640,3) into shape (640,640,3)"; 6 of them pass (2 rows
# of 3), as do 16 of 160 x 210. So the same code works or not with the NUMBER of images.
# Hurt: whoever shows what a network makes of Atari screens (210 x 160, higher than wide).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 tensorboard==2.21.0 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'EOF'
import math
import pathlib
import tempfile

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

for number, height, width in ((16, 210, 160), (6, 210, 160), (16, 160, 210), (100, 10, 32), (2, 20, 10), (2, 21, 10), (5, 15, 10), (4, 11, 10)):
    columns = math.ceil(math.sqrt(number))
    too_tall = math.ceil(number / columns) * height > columns * width
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        try:
            writer.add_embedding(torch.rand(number, 5), label_img=torch.rand(number, 3, height, width))
            raised, told = False, "passes"
        except ValueError as error:
            raised, told = True, f"ValueError: {error}"
        sprites = [Image.open(path).size for path in pathlib.Path(folder).rglob("sprite.png")]
    print(f"{number} images of {height} x {width}: {told}, sprite {sprites}")
    assert raised == too_tall, "tall images are taken now"
    assert sprites == ([] if raised else [(columns * width,) * 2])
EOF
