"""Folders of JPEGs to time loaders on, made of a tree of real photos.

500x375: mosaics of the photos at their own resolution, so that a pixel holds as much as in a real photo; JPEG quality 90, 4:2:0.
160 and 32: one photo each, cut or shrunk to that size, the same quality. Each also as a tar of WebDataset.
"""

import argparse
import io
import json
import pathlib
import random
import tarfile

from PIL import Image

SIZES = {"500x375": (500, 375), "160": (160, 160), "32": (32, 32)}


def mosaic(files, draw, width, height):
    canvas = Image.new("RGB", (width, height))
    top = 0
    while top < height:
        left, tallest = 0, 1
        while left < width:
            tile = Image.open(draw.choice(files)).convert("RGB")
            canvas.paste(tile, (left, top))
            left += tile.width
            tallest = max(tallest, tile.height)
        # Tiles of a row are about alike; a row begins where the shortest may already have ended.
        top += min(tallest, 160)
    return canvas


def picture(files, draw, name):
    width, height = SIZES[name]
    if name == "500x375":
        return mosaic(files, draw, width, height)
    return Image.open(draw.choice(files)).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="a tree of photos")
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=4000, help="pictures of each folder")
    parser.add_argument("--classes", type=int, default=10)
    args = parser.parse_args()
    files = sorted(path for path in pathlib.Path(args.photos).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    made = {}
    for name in SIZES:
        draw = random.Random(0)
        folder = pathlib.Path(args.out) / name / "train"
        done = folder.parent / "count.json"
        if done.exists() and json.loads(done.read_text()) == args.count:
            continue
        total = 0
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder.parent / "train.tar", "w") as tar:
            for index in range(args.count):
                data = io.BytesIO()
                picture(files, draw, name).save(data, "JPEG", quality=90, subsampling="4:2:0")
                label = index % args.classes
                path = folder / f"class{label:02}" / f"{index:06}.jpg"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data.getvalue())
                total += len(data.getvalue())
                for ending, content in (("jpg", data.getvalue()), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{index:06}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        done.write_text(json.dumps(args.count))
        made[name] = {"pictures": args.count, "bytes_each": total // max(1, args.count)}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
