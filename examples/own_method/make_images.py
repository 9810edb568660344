"""Write scikit-learn's digits as image files, one folder a class: DIR/train/CLASS/*.png and DIR/val/CLASS/*.png."""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

folder = Path(sys.argv[1])
digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    place = folder / ("val" if number % 4 == 0 else "train") / str(label)
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255 / 16).astype("uint8")).resize((20, 20)).save(place / f"{number:04}.png")
