"""Do checkpoints mean the same in PyTorch, transformers, timm and onnxruntime? `python interop.py IJEPA [SCRATCH]`.

IJEPA is the program. Each check is a function that raises; all run, and the last line counts them.
"""

import json
import logging
import subprocess
import sys
import tempfile
import traceback
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from reference import Encoder, Run

transformers.utils.logging.disable_progress_bar()
IJEPA = Path(sys.argv[1]).resolve()
TOKENS = 2e-5  # f32, largest difference of a token's value
WEIGHTS = 1e-4  # of a tensor's norm after ten steps, as in goldens/reference_tiny
SETTINGS = dict(
    epochs=3, ipe=5, ipe_scale=1.0, warmup=1, start_lr=2e-4, lr=1e-3, final_lr=1e-6, wd=0.04, final_wd=0.4, ema=(0.996, 1.0)
)
#         image, patch, width, depth, heads
ENCODERS = {
    "tiny": ((32, 32), 4, 192, 2, 3),
    "base": ((224, 224), 16, 768, 12, 12),
    "oblong": ((32, 48), 8, 96, 3, 4),
}


def ijepa(*arguments, cwd=None, code=0):
    done = subprocess.run([str(IJEPA), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, f"ijepa {arguments} ended with {done.returncode}: {done.stderr}"
    return done


def randomise(module, seed):
    """Values away from initialisation in every parameter, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if "pos_embed" not in name:
            around = 1.0 if p.dim() == 1 and "norm" in name and "weight" in name else 0.0
            p.data.copy_(around + 0.05 * torch.randn(p.shape, generator=generator))
    return module


def encoder(name, folder):
    """An encoder in PyTorch, images, its tokens, and a file of it that is labelled as the target encoder."""
    image, patch, width, depth, heads = ENCODERS[name]
    model = randomise(Encoder(image, patch, width, depth, heads), 1).eval()
    images = torch.randn(3, 3, *image, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tokens = model(images)
    file = folder / f"{name}.safetensors"
    about = {"format": "pt", "ijepa.network": "target", "ijepa.heads": str(heads), "ijepa.image": "%dx%d" % image}
    save_file(model.state_dict(), file, metadata=about)
    save_file({"images": images}, folder / f"{name}-images.safetensors")
    return model, images, tokens, file


def tokens_of(checkpoint, images, folder, *more):
    """Tokens as the program computes them."""
    out = folder / "tokens.safetensors"
    ijepa("embed", "--checkpoint", checkpoint, "--data", images, "--out", out, "--tokens", *more)
    return load_file(out)["tokens"]


def close(got, expected, most, what):
    difference = (got - expected).abs().max().item()
    assert got.shape == expected.shape and difference <= most, f"{what}: {difference} > {most}"
    print(f"  {what}: {difference:.1e}")


def transformers_model(folder):
    """IJepaModel from a folder; a warning is a failure."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    transformers.utils.logging.get_logger().addHandler(handler)
    logging.getLogger("transformers").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = transformers.IJepaModel.from_pretrained(folder, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    caught = [str(warning.message) for warning in caught if "ijepa" in str(warning.message).lower()]
    assert not wrong and not said and not caught, f"{wrong} {said} {caught}"
    return model.eval()


def timm_model(file, image, patch, width, depth, heads):
    vit = timm.models.VisionTransformer(
        img_size=image, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads,
        class_token=False, global_pool="avg", fc_norm=False, num_classes=0,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    timm.models.load_checkpoint(vit, str(file))
    return vit


def check_tokens(name, folder):
    """Our encoder against PyTorch, transformers, timm and onnxruntime on the same weights."""
    image, patch, width, depth, heads = ENCODERS[name]
    model, images, tokens, file = encoder(name, folder)
    ours = tokens_of(file, folder / f"{name}-images.safetensors", folder)
    close(ours, tokens, TOKENS, f"{name}: ours and PyTorch")

    ijepa("convert", file, folder / "hf", "--to", "hf")
    with torch.no_grad():
        theirs = transformers_model(folder / "hf")(images).last_hidden_state
    close(ours, theirs, TOKENS, f"{name}: ours and transformers {transformers.__version__}")

    ijepa("convert", folder / "hf", folder / "timm.safetensors", "--to", "timm")
    vit = timm_model(folder / "timm.safetensors", image, patch, width, depth, heads)
    with torch.no_grad():
        close(ours, vit.forward_features(images), TOKENS, f"{name}: ours and timm {timm.__version__}")
        pooled = vit(images)

    ijepa("convert", folder / "timm.safetensors", folder / "encoder.onnx")
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    for batch in (3, 1):
        got, mean = session.run(["tokens", "pooled"], {"images": images[:batch].numpy()})
        close(ours[:batch], torch.from_numpy(got), TOKENS, f"{name}: ours and onnxruntime, batch {batch}")
        close(torch.from_numpy(mean), pooled[:batch], TOKENS, f"{name}: pooled, onnxruntime and timm")


def check_interpolated(folder):
    """A square encoder at another, oblong size: as transformers interpolates, and baked into timm and ONNX."""
    (_, patch, width, depth, heads), image = ENCODERS["tiny"], (40, 64)
    _, _, _, file = encoder("tiny", folder)
    images = torch.randn(2, 3, *image, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, folder / "images.safetensors")
    ours = tokens_of(file, folder / "images.safetensors", folder, "--image-size", "%dx%d" % image)
    ijepa("convert", file, folder / "hf", "--to", "hf")
    with torch.no_grad():
        theirs = transformers_model(folder / "hf")(images, interpolate_pos_encoding=True).last_hidden_state
    close(ours, theirs, TOKENS, "interpolated: ours and transformers")
    ijepa("convert", file, folder / "encoder.onnx", "--image-size", "%dx%d" % image)
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["tokens"], {"images": images.numpy()})
    close(ours, torch.from_numpy(got), TOKENS, "interpolated: ours and onnxruntime")
    ijepa("convert", file, folder / "timm.safetensors", "--to", "timm", "--image-size", "%dx%d" % image)
    vit = timm_model(folder / "timm.safetensors", image, patch, width, depth, heads)
    with torch.no_grad():
        close(ours, vit.forward_features(images), TOKENS, "interpolated: ours and timm")


def run_of(seed):
    run = Run((32, 32), 4, 192, 2, 3, 96, 2, SETTINGS)
    for i, network in enumerate((run.encoder, run.predictor, run.target)):
        randomise(network, seed + i)
    return run


def batches(folder, steps=15):
    """Batches for PyTorch, and the same as a replay file."""
    generator = torch.Generator().manual_seed(5)
    tensors, listed = {}, []
    for step in range(steps):
        images = torch.randn(8, 3, 32, 32, generator=generator)
        order = torch.stack([torch.randperm(64, generator=generator) for _ in range(8)])
        context, targets = order[:, :20].sort().values, [order[:, 20 + 9 * j : 29 + 9 * j].sort().values for j in range(4)]
        tensors[f"step{step}.images"], tensors[f"step{step}.context0"] = images, context
        for j, target in enumerate(targets):
            tensors[f"step{step}.target{j}"] = target
        listed.append((images, context, targets))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "replay.safetensors")
    return listed


CONFIG = """
data: {batch_size: 8, crop_size: 32}
mask: {patch_size: 4, min_keep: 4}
meta: {model_name: vit_tiny, enc_depth: 2, pred_depth: 2, pred_emb_dim: 96, use_bfloat16: false}
optimization: {epochs: 3, warmup: 1, start_lr: 2.0e-4, lr: 1.0e-3, final_lr: 1.0e-6, weight_decay: 0.04, final_weight_decay: 0.4, ema: [0.996, 1.0], ipe_scale: 1.0}
"""


def same_weights(run, held, most):
    """Every tensor of the three networks against a checkpoint of ours, relative to its norm."""
    worst = 0.0
    for network, name in ((run.encoder, "encoder"), (run.predictor, "predictor"), (run.target, "target_encoder")):
        for key, expected in network.module.state_dict().items():
            got = held[f"{name}.{key}"]
            worst = max(worst, ((got - expected).norm() / (1e-12 + expected.norm())).item())
    assert worst <= most, f"weights differ by {worst} of a norm, more than {most}"
    print(f"  weights differ by at most {worst:.1e} of a tensor's norm")


def check_continues_here(folder):
    """Ten steps here go on from a checkpoint that PyTorch's AdamW wrote, in both of torch.save's formats."""
    listed = batches(folder)
    for zipped in (True, False):
        run = run_of(10)
        run.train(listed[:5])
        out = folder / f"run-{zipped}"
        out.mkdir()
        (out / "params-ijepa.yaml").write_text(CONFIG)
        run.save(out / "jepa-latest.pth.tar", _use_new_zipfile_serialization=zipped)
        ijepa("pretrain", "--resume", "--out", out, "--replay", folder / "replay.safetensors")
        expected = run.train(listed[5:])
        same_weights(run, load_file(out / "checkpoints/latest.safetensors"), WEIGHTS)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = np.array([row["loss"] for row in rows])
        assert len(losses) == 10 and np.allclose(losses, expected, rtol=1e-4), f"{losses} {expected}"


def check_continues_there(folder):
    """Ten steps in PyTorch go on from a checkpoint that was written here."""
    listed = batches(folder)
    (folder / "run.yaml").write_text(CONFIG)
    whole = run_of(20)
    whole.save(folder / "init.pth.tar")
    replay = ("--replay", folder / "replay.safetensors")
    begin = ("pretrain", folder / "run.yaml", "--init", folder / "init.pth.tar", *replay)
    ijepa(*begin, "--out", folder / "part", "--steps", 5)
    ijepa(*begin, "--out", folder / "whole")
    ijepa("convert", folder / "part/checkpoints/latest.safetensors", folder / "there.pth.tar")
    run = run_of(30)
    held = run.load(folder / "there.pth.tar")
    assert run.step == 5 and held["epoch"] == 1, held["epoch"]
    run.train(listed[5:])
    same_weights(run, load_file(folder / "whole/checkpoints/latest.safetensors"), WEIGHTS)


def check_round_trip(folder):
    """.pth.tar → ours → HF → timm → .pth.tar loses no bit of an encoder; → ours → .pth.tar loses none of anything."""
    listed = batches(folder, 5)
    run = run_of(40)
    run.train(listed)
    run.save(folder / "a.pth.tar")
    expected = torch.load(folder / "a.pth.tar", weights_only=True)
    ijepa("convert", folder / "a.pth.tar", folder / "ours.safetensors")
    ijepa("convert", folder / "ours.safetensors", folder / "back.pth.tar")
    got = torch.load(folder / "back.pth.tar", weights_only=True)
    surplus = set(got) - set(expected)
    assert set(expected) <= set(got) and all(key.startswith("ijepa.") for key in surplus), set(got) ^ set(expected)
    for name in ("encoder", "predictor", "target_encoder"):
        assert list(got[name]) == list(expected[name]), f"{name}: names or their order"
        assert all(torch.equal(got[name][key], expected[name][key]) for key in expected[name]), name
    state = expected["opt"]["state"]
    assert state.keys() == got["opt"]["state"].keys()
    for number, moments in state.items():
        assert all(torch.equal(got["opt"]["state"][number][key], value) for key, value in moments.items()), number
    numbered = lambda held: [group["params"] for group in held["opt"]["param_groups"]]
    assert numbered(got) == numbered(expected)
    decay = lambda held: [group["weight_decay"] for group in held["opt"]["param_groups"]]
    assert decay(got) == decay(expected), f"{decay(got)} {decay(expected)}"
    for key in ("epoch", "loss", "batch_size", "world_size", "lr", "scaler"):
        assert got[key] == expected[key], f"{key}: {got[key]} {expected[key]}"
    for network, name in (("target", "target_encoder"), ("context", "encoder")):
        ijepa("convert", folder / "ours.safetensors", folder / network, "--to", "hf", "--network", network)
        ijepa("convert", folder / network, folder / f"{network}.safetensors", "--to", "timm")
        ijepa("convert", folder / f"{network}.safetensors", folder / f"{network}.pth.tar")
        held = torch.load(folder / f"{network}.pth.tar", weights_only=True)[name]
        assert list(held) == list(expected[name])
        assert all(torch.equal(held[key], expected[name][key]) for key in held), network


def check_images(folder):
    """transformers' image processor, as our preprocessor_config.json sets it up, gives the pixels that the program computes with."""
    _, _, _, file = encoder("tiny", folder)
    ijepa("convert", file, folder / "hf", "--to", "hf")
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "hf")
    assert list(processor.image_mean) == [0.485, 0.456, 0.406], processor.image_mean
    assert list(processor.image_std) == [0.229, 0.224, 0.225], processor.image_std
    from PIL import Image

    (folder / "photos").mkdir()
    smooth = np.kron(np.random.default_rng(1).integers(0, 255, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    Image.fromarray(smooth).resize((128, 96), Image.BICUBIC).save(folder / "photos/a.png")
    pixels = processor(Image.open(folder / "photos/a.png"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = transformers_model(folder / "hf")(pixels).last_hidden_state
    ours = tokens_of(file, folder / "photos", folder)
    # The filters round differently: up to a grey level in some pixels, which is 0.02 after normalisation.
    close(ours.mean(1), theirs.mean(1), 0.05, "pooled features of a photo, ours and transformers with its processor")


def check_bfloat16(folder):
    """Our bfloat16 is no less accurate than PyTorch's autocast, each against its own f32."""
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        print("  skipped: this CPU has no AVX512-BF16")
        return
    model, images, exact, file = encoder("base", folder)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = model(images).float()
    ours = tokens_of(file, folder / "base-images.safetensors", folder, "--bf16")
    off = [((tokens - exact).norm() / exact.norm()).item() for tokens in (ours, theirs)]
    print("  tokens against f32: ours %.2f %%, autocast's %.2f %%" % tuple(100 * x for x in off))
    assert off[0] <= 1.05 * off[1], off


def main():
    checks = [(f"tokens of {name}", lambda folder, name=name: check_tokens(name, folder)) for name in ENCODERS]
    checks += [
        ("positions interpolated", check_interpolated),
        ("a run of PyTorch goes on here", check_continues_here),
        ("a run of ours goes on in PyTorch", check_continues_there),
        ("round trips", check_round_trip),
        ("images", check_images),
        ("bfloat16", check_bfloat16),
    ]
    failed = 0
    for name, check in checks:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(Path(folder))
            except Exception:
                failed += 1
                traceback.print_exc(file=sys.stdout)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
