"""Images a second that loaders of PyTorch deliver: decoded, cut by RandomResizedCrop(scale=(0.3, 1)), as normalised float tensors.

Run by `cargo xtask peers data`; prints one JSON object. Loaders:
  folder      torchvision's ImageFolder on Pillow, RandomResizedCrop, ToTensor, Normalize, DataLoader with worker processes
  tensor      the same through torchvision.io.decode_jpeg and the transforms on tensors (v2)
  webdataset  the `webdataset` package over a tar of the same pictures, transforms as in folder
"""

import argparse
import json
import os
import pathlib
import time

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64


def on_pillow(crop):
    return transforms.Compose([
        transforms.RandomResizedCrop(crop, scale=(0.3, 1.0)),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])


def on_tensors(crop):
    return v2.Compose([
        v2.RandomResizedCrop(crop, scale=(0.3, 1.0), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])


def decoded(path):
    data = torchvision.io.read_file(path)
    return torchvision.io.decode_jpeg(data, mode=torchvision.io.ImageReadMode.RGB)


def loader(args):
    options = {"batch_size": BATCH, "num_workers": args.workers}
    if args.workers:
        options |= {"persistent_workers": True, "prefetch_factor": 4}
    if args.loader == "webdataset":
        import webdataset

        tar = str(next(pathlib.Path(args.data).glob("*.tar")))
        decode = on_pillow(args.crop)
        # A tar cannot be split over workers, so each of them begins elsewhere in a shuffle of its own.
        data = (
            webdataset.WebDataset(tar, shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False)
            .shuffle(500)
            .decode("pil")
            .to_tuple("jpg", "cls")
            .map_tuple(decode, int)
            .repeat()
        )
        return DataLoader(data, **options)
    train = pathlib.Path(args.data) / "train"
    if args.loader == "tensor":
        data = ImageFolder(train, on_tensors(args.crop), loader=decoded)
    else:
        data = ImageFolder(train, on_pillow(args.crop))
    return DataLoader(data, shuffle=True, drop_last=True, **options)


def batches(source):
    while True:
        yield from source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train/CLASS/*.jpg, and a tar for webdataset")
    parser.add_argument("--loader", choices=["folder", "tensor", "webdataset"], default="folder")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=4000)
    args = parser.parse_args()
    # The work is done in the workers; each of them takes one thread.
    torch.set_num_threads(1)
    source = batches(loader(args))
    # Until every worker has started and the queue is full.
    for _ in range(4 + 2 * args.workers):
        next(source)
    seen, began = 0, time.perf_counter()
    while seen < args.images:
        images, _ = next(source)
        seen += len(images)
    seconds = time.perf_counter() - began
    print(json.dumps({"img_per_s": seen / seconds, "images": seen, "workers": args.workers, "loader": args.loader,
                      "torch": torch.__version__, "torchvision": torchvision.__version__}), flush=True)


if __name__ == "__main__":
    main()
