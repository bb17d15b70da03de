"""The training step that `ijepa bench step` times, and the features that `ijepa bench embed` times, in PyTorch.

Run by `cargo xtask peers`; prints one JSON object. Modes: eager (attention written out), sdpa, compile (sdpa, torch.compile),
bf16 (sdpa under CPU autocast). AdamW is fused and the moving average goes through torch._foreach in all of them. On a GPU all modes are under
bfloat16 autocast, and images come from pinned memory at every step, as ours do.
"""

import argparse
import copy
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

#        image, patch, width, depth, heads, predictor width and depth, batch, context, targets
SHAPES = {
    "S1": (32, 4, 192, 12, 3, 96, 6, 64, 32, 12),
    "S2": (224, 16, 384, 12, 6, 192, 6, 16, 80, 34),
    "S3": (224, 16, 768, 12, 12, 384, 6, 8, 80, 34),
    "B16": (224, 16, 768, 12, 12, 384, 12, 128, 52, 33),
    "H14": (224, 14, 1280, 32, 16, 384, 12, 128, 69, 45),
}
BLOCKS = 4


class Attention(nn.Module):
    def __init__(self, width, heads, eager):
        super().__init__()
        self.heads, self.eager = heads, eager
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.eager:
            scores = (q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, width, heads, eager):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, eager)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def take(x, index):
    return torch.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self, image, patch, width, depth, heads, eager):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.register_buffer("positions", torch.randn(1, (image // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, eager) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, index=None):
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        if index is not None:
            x = take(x, index)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, patches, encoder_width, width, depth, heads, eager):
        super().__init__()
        self.embed, self.out = nn.Linear(encoder_width, width), nn.Linear(width, encoder_width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", torch.randn(1, patches, width))
        self.blocks = nn.ModuleList(Block(width, heads, eager) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x, context, targets):
        positions = self.positions.expand(x.shape[0], -1, -1)
        x = self.embed(x) + take(positions, context)
        masks = torch.cat([self.mask + take(positions, target) for target in targets])
        x = torch.cat([x.repeat(len(targets), 1, 1), masks], 1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, context.shape[1]:]))


def indices(batch, count, patches, stride):
    rows = [sorted((image + i * stride) % patches for i in range(count)) for image in range(batch)]
    return torch.tensor(rows)


def median_ms(call, count):
    for _ in range(2):
        call()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def step(shape, mode, device):
    image, patch, width, depth, heads, p_width, p_depth, batch, c, t = SHAPES[shape]
    patches, eager = (image // patch) ** 2, mode == "eager"
    encoder = Encoder(image, patch, width, depth, heads, eager).to(device)
    predictor = Predictor(patches, width, p_width, p_depth, heads, eager).to(device)
    target = copy.deepcopy(encoder).requires_grad_(False)
    learnt = [*encoder.parameters(), *predictor.parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.04, fused=True)
    stored = torch.randn(batch, 3, image, image)
    if device == "cuda":
        stored = stored.pin_memory()
    context = indices(batch, c, patches, 11).to(device)
    targets = [indices(batch, t, patches, stride).to(device) for stride in (1, 3, 5, 9)[:BLOCKS]]
    slow, fast = list(target.parameters()), list(encoder.parameters())

    def loss_of(images):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mode == "bf16" or device == "cuda"):
            with torch.no_grad():
                h = target(images)
                h = F.layer_norm(h, (width,))
                h = torch.cat([take(h, index) for index in targets])
            z = predictor(encoder(images, context), context, targets)
            return F.smooth_l1_loss(z, h)

    forward = torch.compile(loss_of) if mode == "compile" else loss_of

    def call():
        loss = forward(stored.to(device, non_blocking=True))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            torch._foreach_mul_(slow, 0.996)
            torch._foreach_add_(slow, fast, alpha=0.004)
        # The loss is read at every step, which on a GPU waits for all of it.
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def embed(mode, batch):
    image, patch, width, depth, heads = SHAPES["S3"][:5]
    encoder = Encoder(image, patch, width, depth, heads, mode == "eager").eval()
    if mode == "compile":
        encoder = torch.compile(encoder)
    images = torch.randn(batch, 3, image, image)

    def call():
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "bf16"):
            encoder(images).mean(1)

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["step", "embed"])
    parser.add_argument("--shape", choices=SHAPES, default="S1")
    parser.add_argument("--mode", choices=["eager", "sdpa", "compile", "bf16"], default="sdpa")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    call = step(args.shape, args.mode, args.device) if args.what == "step" else embed(args.mode, args.batch)
    ms = median_ms(call, args.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"ms": ms, "peak_bytes": peak, "threads": torch.get_num_threads(), "torch": torch.__version__,
                      "capability": torch.backends.cpu.get_cpu_capability()}))


if __name__ == "__main__":
    main()
