"""Writes the first inputs of every target to corpus/: small honest files of each format, by PyTorch, NumPy and pyarrow.

    python seeds.py        # in fuzz/, with a Python that has torch, numpy and pyarrow
"""

import io
import json
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import torch

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "goldens" / "torch_files"
WIDTH, PATCH, PATCHES = 4, 2, 4


def encoder():
    d = WIDTH
    shapes = {
        "pos_embed": (1, PATCHES, d),
        "patch_embed.proj.weight": (d, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (d,),
        "blocks.0.norm1.weight": (d,),
        "blocks.0.attn.qkv.weight": (3 * d, d),
        "blocks.0.attn.qkv.bias": (3 * d,),
        "blocks.0.mlp.fc1.weight": (2 * d, d),
        "norm.weight": (d,),
    }
    return OrderedDict((name, torch.arange(0, torch.Size(shape).numel()).reshape(shape).float()) for name, shape in shapes.items())


def hugging_face():
    names = {
        "pos_embed": ["embeddings.position_embeddings"],
        "patch_embed.proj.weight": ["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": ["embeddings.patch_embeddings.projection.bias"],
        "blocks.0.norm1.weight": ["encoder.layer.0.layernorm_before.weight"],
        "blocks.0.attn.qkv.weight": [f"encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "key", "value")],
        "blocks.0.attn.qkv.bias": [f"encoder.layer.0.attention.attention.{part}.bias" for part in ("query", "key", "value")],
        "blocks.0.mlp.fc1.weight": ["encoder.layer.0.intermediate.dense.weight"],
        "norm.weight": ["layernorm.weight"],
    }
    renamed = {}
    for ours, tensor in encoder().items():
        theirs = names[ours]
        renamed.update(zip(theirs, tensor.chunk(len(theirs))))
    return renamed


def training():
    """The reference's dictionary, with AdamW's state for one weight and one bias of either network."""
    def network(name):
        return OrderedDict([(f"module.{name}.weight", torch.ones(2, 2)), (f"module.{name}.bias", torch.zeros(2))])

    def state(shape):
        return {"step": torch.tensor(3.0), "exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)}

    shapes = [(2, 2), (2, 2), (2,), (2,)]
    return {
        "encoder": network("norm"),
        "predictor": network("predictor_embed"),
        "target_encoder": network("norm"),
        "opt": {
            "state": {number: state(shape) for number, shape in enumerate(shapes)},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [number]} for number in range(4)],
        },
        "scaler": {"scale": 65536.0},
        "epoch": 2,
        "loss": 0.5,
        "lr": 1e-3,
    }


def torch_file(content, zipped):
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def safetensors(tensors, texts=None, types={}):
    header, data = {}, b""
    if texts is not None:
        header["__metadata__"] = texts
    for name, tensor in tensors.items():
        kind = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}[tensor.dtype]
        raw = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return json.dumps(header).encode(), data


def whole(parts):
    header, data = parts
    return struct.pack("<Q", len(header)) + header + data


def ours():
    tensors = {"encoder.norm.weight": torch.ones(2), "predictor.norm.bias": torch.ones(2)}
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors.update({f"optimizer.{moment}.{name}": torch.ones(2) for name in list(tensors)[:2]})
    texts = {"format": "pt", "ijepa.version": "0.1.0", "step": "3", "epoch": "1", "seed": "0", "optimizer.step": "3",
             "config": "meta:\n  model_name: vit_tiny\n", "ijepa.heads": "2", "ijepa.image": "4x4", "ijepa.network": "target"}
    return safetensors(tensors, texts)


def folder(files):
    names = ["config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
             "pytorch_model.bin", "a.safetensors", "b.safetensors"]
    return b"".join(bytes([names.index(name)]) + struct.pack("<H", len(content)) + content for name, content in files.items())


def tar(members, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, bufsize=512) as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    end = out.getvalue().rstrip(b"\0")
    return end + bytes(-len(end) % 512 + 1024)


def parquet(**options):
    images = [{"bytes": bytes([number]) * 9, "path": f"{number}.jpg"} for number in range(4)] + [None]
    names = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}}})
    table = pyarrow.table({"image": images, "label": [0, 1, 0, 1, -1]}).replace_schema_metadata({"huggingface": names})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, row_group_size=3, store_schema=False, write_statistics=False, **options)
    whole = out.getvalue()
    return whole[-8:-6] + whole[:-8]


def npy(array):
    out = io.BytesIO()
    numpy.save(out, array)
    return out.getvalue()


def idx(magic, sizes):
    return struct.pack(f">I{len(sizes)}I", magic, *sizes) + bytes(range(int(numpy.prod(sizes))))


def array(kind, images, labels):
    return bytes([kind]) + struct.pack("<H", len(images)) + images + labels


def data_sets():
    """Of the readers of data sets: samples of images that nobody decodes."""
    members = [("a/1.jpg", b"image"), ("a/1.cls", b"3"), ("b.png", b"image"), ("b.json", b'{"label": 1}'), ("c" * 120 + ".jpg", b"")]
    for name, kind in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        yield "shard", name, b"\1" + tar(members, kind)
    yield "shard", "packed", b"\3" + tar(members[:4], tarfile.USTAR_FORMAT)
    yield "shard", "classes", b"\1" + tar([("classes.txt", b"x\ny\n"), *members[:2]], tarfile.USTAR_FORMAT)
    for name, options in (("snappy", {}), ("plain", {"compression": "none", "use_dictionary": False}), ("zstd", {"compression": "zstd"})):
        yield "parquet", name, parquet(**options)
    yield "list", "plain", b"a.jpg\nb c.png\n# no\nc.jpg\n"
    yield "list", "classes", b"path,label\na.jpg,cat\nb c.png , dog\n"
    yield "list", "numbers", b"a.jpg\t3\r\na.jpg\t4\r\n"
    yield "list", "subset", b"n01_1.jpg\nn01_2.jpg\n"
    labels = npy(numpy.arange(2))
    yield "array", "npy_pixels", array(0, npy(numpy.zeros((2, 2, 3, 3), numpy.uint8)), labels)
    yield "array", "npy_values", array(0, npy(numpy.zeros((2, 3, 2, 2), numpy.float32)), labels)
    yield "array", "idx", array(1, idx(0x803, (2, 3, 4)), idx(0x801, (2,)))
    yield "array", "idx_packed", array(2, idx(0x803, (2, 3, 4)), idx(0x801, (2,)))
    header, values = safetensors({"images": torch.zeros(2, 3, 2, 2), "labels": torch.arange(2)})
    yield "array", "tensors", array(3, header, values)


def seeds():
    timm = encoder() | {"head.weight": torch.ones(1, WIDTH)}
    mixed = {"a": torch.ones(2).half(), "b": torch.ones(2).long(), "c": torch.ones(2)}
    yield from data_sets()
    yield "safetensors", "ours", b"\0".join(ours())
    yield "safetensors", "timm", b"\0".join(safetensors(timm, {"ijepa.heads": "2"}))
    yield "safetensors", "hugging_face", b"\0".join(safetensors(hugging_face()))
    yield "safetensors", "types", b"\0" + whole(safetensors(mixed))

    yield "torch_zip", "variety", (GOLDENS / "variety.pt").read_bytes()
    yield "torch_zip", "variety_protocol4", (GOLDENS / "variety_protocol4.pt").read_bytes()
    yield "torch_zip", "training", torch_file(training(), True)

    # The pickles of the magic number and of the version, which the target puts in front.
    beginning = 15 + 6
    yield "torch_legacy", "variety", (GOLDENS / "variety_legacy.pt").read_bytes()[beginning:]
    yield "torch_legacy", "training", torch_file(training(), False)[beginning:]
    yield "torch_legacy", "encoder", torch_file(encoder(), False)[beginning:]

    config = json.dumps({"model_type": "ijepa", "num_attention_heads": 2, "image_size": 4, "layer_norm_eps": 1e-6}).encode()
    images = json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}).encode()
    tensors = hugging_face()
    first = dict(list(tensors.items())[:5])
    second = dict(list(tensors.items())[5:])
    shards = {name: file for names, file in ((first, "a.safetensors"), (second, "b.safetensors")) for name in names}
    index = json.dumps({"metadata": {}, "weight_map": shards}).encode()
    yield "model_folder", "whole", folder({
        "config.json": config, "preprocessor_config.json": images, "model.safetensors": whole(safetensors(tensors))})
    yield "model_folder", "shards", folder({
        "config.json": config, "model.safetensors.index.json": index,
        "a.safetensors": whole(safetensors(first)), "b.safetensors": whole(safetensors(second))})
    yield "model_folder", "pickled", folder({
        "config.json": config, "pytorch_model.bin": torch_file({"norm.weight": torch.ones(2)}, False)})

    for path in sorted((HERE.parent / "configs").glob("*.yaml")):
        yield "run_file", path.stem, path.read_bytes()
    yield "run_file", "lists", b"data:\n  crop_scale:\n  - 0.3\n  - '1.0'\nmask: {aspect_ratio: [0.75, 1.5], x: \"y\"}\n"
    yield "run_file", "value", b"['1', \"2\", null, ~]"
    yield "run_file", "refused", b"a: &x 1\nb: *x\n---\nc: |\n  1\n"


for target, name, content in seeds():
    path = HERE / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
