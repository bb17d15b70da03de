"""What Pillow, torchvision and timm make of pictures, as cases that our program repeats.

Run by `cargo xtask peers transforms`, which pipes stdout into our comparison; with --goldens the pictures are computed patterns, and
the result is goldens/transforms/cases.bin. A case is the length of its head (u32, little-endian), the head as JSON, and the bytes of
the result.
"""

import argparse
import json
import pathlib
import random
import struct
import sys

import numpy
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data import auto_augment, mixup
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
FILL = (124, 116, 104)

#  operations of timm and the numbers that they are given
LEVELS = ["AutoContrast", "Equalize", "Invert"]
BITS = {"Posterize": (0, 8), "Solarize": (0, 256), "SolarizeAdd": (0, 128)}
FACTORS = {"Brightness": (0.1, 1.9), "Contrast": (0.1, 1.9), "Color": (0.1, 1.9), "Sharpness": (0.1, 1.9)}
MOVES = {"Rotate": (-30, 30), "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3), "TranslateXRel": (-0.45, 0.45), "TranslateYRel": (-0.45, 0.45)}


def pattern(width, height, kind):
    """Gradients, edges and noise in whole numbers; the same in our program."""
    out = numpy.zeros((height, width, 3), numpy.uint8)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                noise = (x * 7919 + y * 104729 + channel * 1299 + 12345) * 2654435761 % (1 << 32) >> 20
                if kind == 0:
                    edge = 90 if (x // 5 + y // 7 + channel) % 3 == 0 else 0
                    value = min(255, x * 255 // width * (channel + 1) // 3 + y * 100 // height + edge)
                elif kind == 1:
                    value = noise % 256
                else:
                    value = 40 + noise % 30 + x * 20 // width
                out[y, x, channel] = value
    return Image.fromarray(out)


def emit(out, name, head, result):
    data = result if isinstance(result, bytes) else result.convert("RGB").tobytes()
    head = json.dumps({"name": name, **head, "bytes": len(data)}).encode()
    out.write(struct.pack("<I", len(head)) + head + data)


def resized(out, source, image, box, size, filter_name):
    left, top, width, height = box
    result = F.resized_crop(image, top, left, height, width, (size[1], size[0]), MODES[filter_name])
    emit(out, f"crop and resize, {filter_name}", {"op": "resize", **source, "box": box, "size": size, "filter": filter_name}, result)


def evaluated(out, source, image, crop, filter_name):
    steps = [transforms.Resize(crop * 256 // 224, interpolation=MODES[filter_name]), transforms.CenterCrop(crop)]
    head = {"op": "eval", **source, "crop": [crop, crop], "filter": filter_name}
    emit(out, f"evaluation, {filter_name}", head, transforms.Compose(steps)(image))


def changed(out, source, image, draw):
    """Every change of a picture once, with numbers drawn by `draw`."""
    for name in LEVELS:
        emit(out, name, {"op": name, **source}, auto_augment.NAME_TO_OP[name](image))
    for name, (low, high) in BITS.items():
        value = draw.randint(low, high)
        emit(out, name, {"op": name, **source, "value": value}, auto_augment.NAME_TO_OP[name](image, value))
    for name, (low, high) in FACTORS.items():
        value = draw.uniform(low, high)
        emit(out, name, {"op": name, **source, "value": value}, auto_augment.NAME_TO_OP[name](image, value))
    for name, (low, high) in MOVES.items():
        for filter_name, resample in FILTERS.items():
            value = draw.uniform(low, high)
            result = auto_augment.NAME_TO_OP[name](image, value, resample=resample, fillcolor=FILL)
            head = {"op": name, **source, "value": value, "filter": filter_name, "fill": FILL}
            emit(out, f"{name}, {filter_name}", head, result)
    hue = draw.uniform(-0.5, 0.5)
    emit(out, "Hue", {"op": "Hue", **source, "value": hue}, F.adjust_hue(image, hue))
    emit(out, "Grey", {"op": "Grey", **source}, F.to_grayscale(image, 3))
    radius = draw.uniform(0.1, 2.0)
    emit(out, "Blur", {"op": "Blur", **source, "value": radius}, image.filter(ImageFilter.GaussianBlur(radius)))


def mixed(out, shape, share, box, smoothing):
    """One batch through the arithmetic of timm's Mixup, its draws given."""
    images, height, width, classes = shape
    x = (torch.arange(images * 3 * height * width) * 37 % 101).float() / 64 - 0.75
    x = x.view(images, 3, height, width)
    labels = torch.arange(images) * 5 % classes
    mixer = mixup.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=smoothing, num_classes=classes)
    mixer._params_per_batch = lambda: (share, box is not None)
    given = mixup.cutmix_bbox_and_lam
    if box is not None:
        left, top, box_width, box_height = box
        share = 1.0 - box_width * box_height / float(height * width)
        mixup.cutmix_bbox_and_lam = lambda *_, **__: ((top, top + box_height, left, left + box_width), share)
    x, targets = mixer(x, labels)
    mixup.cutmix_bbox_and_lam = given
    result = torch.cat([x.flatten(), targets.flatten()]).numpy().astype("<f4").tobytes()
    head = {"op": "mixup", "shape": shape, "share": share, "box": box, "smoothing": smoothing}
    emit(out, "CutMix" if box else "Mixup", head, result)


def goldens(out):
    draw = random.Random(0)
    for kind, (width, height) in [(0, (29, 23)), (1, (24, 31)), (2, (17, 20))]:
        image, source = pattern(width, height, kind), {"pattern": [width, height, kind]}
        changed(out, source, image, draw)
        for filter_name in FILTERS:
            resized(out, source, image, [2, 1, width - 5, height - 3], [16, 16], filter_name)
            resized(out, source, image, [0, 0, width, height], [9, 40], filter_name)
            resized(out, source, image, [3, 4, 10, height - 8], [10, 7], filter_name)
    for kind, (width, height) in [(0, (97, 61)), (1, (45, 140)), (0, (20, 13))]:
        image, source = pattern(width, height, kind), {"pattern": [width, height, kind]}
        for filter_name in FILTERS:
            evaluated(out, source, image, 28, filter_name)
    for width, height in [(1, 1), (2, 5), (3, 3)]:
        changed(out, {"pattern": [width, height, 1]}, pattern(width, height, 1), draw)
    for radius in [0.05, 0.6, 3.3, 12.0]:
        emit(out, "Blur", {"op": "Blur", "pattern": [21, 6, 1], "value": radius}, pattern(21, 6, 1).filter(ImageFilter.GaussianBlur(radius)))
    for degrees in [0, 90, 180, -45, 400]:
        result = auto_augment.rotate(pattern(15, 15, 0), degrees, resample=FILTERS["bicubic"], fillcolor=FILL)
        head = {"op": "Rotate", "pattern": [15, 15, 0], "value": degrees, "filter": "bicubic", "fill": FILL}
        emit(out, "Rotate, bicubic", head, result)
    for hue in [-0.5, -0.1, 0.0, 0.003, 0.5]:
        emit(out, "Hue", {"op": "Hue", "pattern": [40, 40, 1], "value": hue}, F.adjust_hue(pattern(40, 40, 1), hue))
    mixed(out, [4, 5, 6, 7], 0.3141, None, 0.1)
    mixed(out, [4, 5, 6, 7], 0.3141, [1, 2, 4, 3], 0.1)
    mixed(out, [2, 4, 4, 3], 0.9, [0, 0, 0, 2], 0.0)


def photos(out, folder, count, seed):
    draw = random.Random(seed)
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    draw.shuffle(files)
    done = 0
    for path in files:
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except Exception:
            continue
        if done == count:
            break
        done += 1
        source = {"file": str(path)}
        emit(out, "decode", {"op": "decode", **source}, image)
        for filter_name in FILTERS:
            torch.manual_seed(draw.randrange(1 << 31))
            top, left, height, width = transforms.RandomResizedCrop.get_params(image, (0.3, 1.0), (3 / 4, 4 / 3))
            resized(out, source, image, [left, top, width, height], [224, 224], filter_name)
            small = draw.randint(16, 200)
            resized(out, source, image, [left, top, width, height], [small, small], filter_name)
            crop = draw.choice([96, 128, 224])
            # A picture of just that size we take as it is.
            if image.size != (crop, crop):
                evaluated(out, source, image, crop, filter_name)
        changed(out, source, image, draw)
    print(f"{done} photos", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goldens", action="store_true")
    parser.add_argument("--photos")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.goldens:
        goldens(sys.stdout.buffer)
    else:
        photos(sys.stdout.buffer, args.photos, args.count, args.seed)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
