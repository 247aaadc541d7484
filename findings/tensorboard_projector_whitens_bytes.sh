#!/usr/bin/env bash
# torch 2.13.0 with tensorboard 2.21.0: SummaryWriter.add_embedding writes uint8 label_img as white pictures.
# Expected: bytes (0 to 255) are understood as bytes, as add_image of the same SummaryWriter does.
# What happens: add_embedding multiplies any label_img by 255 and clips, whatever its type: every byte but 0 becomes 255. No error, no
# warning; every screen without black parts is a white field in the projector.
# Seen: images of the byte 30: add_image writes 30, add_embedding writes 255; the same images as floats (30/255): 30.
# Hurt: whoever hands on observations as environments give them (uint8).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 tensorboard==2.21.0 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'EOF'
import io
import pathlib
import tempfile

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

seen = {}
for name, images in (("bytes", torch.full((4, 3, 8, 8), 30, dtype=torch.uint8)), ("floats", torch.full((4, 3, 8, 8), 30 / 255))):
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            writer.add_image("screen", images[0])
            writer.add_embedding(torch.rand(4, 5), label_img=images)
        events = EventAccumulator(folder)
        events.Reload()
        (image,) = events.Images("screen")
        single = np.unique(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))))
        (sprite,) = pathlib.Path(folder).rglob("sprite.png")
        seen[name] = single.tolist(), np.unique(np.asarray(Image.open(sprite))).tolist()
    print(f"{name}: add_image writes {seen[name][0]}, add_embedding {seen[name][1]}")
assert seen == {"bytes": ([30], [255]), "floats": ([30], [30])}, "bytes are understood now"
EOF
