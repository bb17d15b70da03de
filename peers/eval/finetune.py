"""Fine-tuning as PyTorch does it, on a tiny encoder: AdamW in groups with layer-wise learning rates, soft targets, a moving average.

Writes goldens/finetune: `python finetune.py OUT`. No drop path and no distortion, so that every number is a plain function of the
files. Layers as in BEiT and MAE: embeddings 0, block k is k + 1, the rest is depth + 1; a layer's share of the learning rate is
decay ** (depth + 1 - layer).
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

IMAGE, PATCH, WIDTH, DEPTH, HEADS, HIDDEN, CLASSES = 16, 4, 24, 3, 3, 96, 5
BATCH, STEPS, WARMUP = 4, 10, 3
LR, FINAL_LR, WEIGHT_DECAY, LAYER_DECAY, EMA, SMOOTHING = 2e-3, 1e-5, 0.05, 0.65, 0.9, 0.1


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) * (d // HEADS) ** -0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, (IMAGE // PATCH) ** 2, WIDTH), requires_grad=False)
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, images):
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        return self.head(self.encoder(images).mean(1))


def layer(name):
    if name.startswith(("encoder.patch_embed.", "encoder.pos_embed")):
        return 0
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return DEPTH + 1


def groups(model):
    for name, p in model.named_parameters():
        if p.requires_grad:
            share = LAYER_DECAY ** (DEPTH + 1 - layer(name))
            yield {"params": [p], "share": share, "weight_decay": 0.0 if p.ndim == 1 else WEIGHT_DECAY}


def rate(step):
    """A line over the warm-up, then half a cosine; a step uses its rate at its end."""
    k = step + 1
    if k < WARMUP:
        return LR * k / WARMUP
    return FINAL_LR + (LR - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * (k - WARMUP) / (STEPS - WARMUP)))


def main(out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Classifier()
    for name, p in model.named_parameters():
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        p.data.copy_(around + 0.15 * torch.randn(p.shape))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = {name: p.clone() for name, p in start.items()}
    optimiser = torch.optim.AdamW(list(groups(model)), betas=(0.9, 0.999), eps=1e-8)

    batches, steps = {}, []
    for step in range(STEPS):
        images = torch.randn(BATCH, 3, IMAGE, IMAGE)
        labels = torch.randint(CLASSES, (BATCH,))
        targets = F.one_hot(labels, CLASSES) * (1 - SMOOTHING) + SMOOTHING / CLASSES
        if step % 2:  # as mixing leaves them
            share = torch.rand(())
            images, targets = (share * x + (1 - share) * x.flip(0) for x in (images, targets))
        batches |= {f"step{step}.images": images.contiguous(), f"step{step}.targets": targets.contiguous()}
        for group in optimiser.param_groups:
            group["lr"] = rate(step) * group["share"]
        loss = -(targets * F.log_softmax(model(images), -1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        steps.append({"lr": rate(step), "loss": loss.item()})
        if step == 0:
            steps[0]["grad_norms"] = {
                name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.requires_grad
            }
        optimiser.step()
        for name, p in model.named_parameters():
            average[name].mul_(EMA).add_(p.detach(), alpha=1 - EMA)

    def told(p):
        flat = p.double().flatten()
        return {"norm": flat.norm().item(), "sum": flat.sum().item(), "first": flat[:4].tolist()}

    config = {
        "image": IMAGE, "patch": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, "hidden": HIDDEN,
        "classes": CLASSES, "warmup_steps": WARMUP, "steps": STEPS, "lr": LR, "final_lr": FINAL_LR,
        "weight_decay": WEIGHT_DECAY, "layer_decay": LAYER_DECAY, "ema": EMA,
    }  # fmt: skip
    expected = {
        "config": config,
        "steps": steps,
        "final": {name: told(p.detach()) for name, p in model.named_parameters()},
        "average": {name: told(p) for name, p in average.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(start | batches, out / "case.safetensors")
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
