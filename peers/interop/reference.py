"""I-JEPA's networks and training step in PyTorch, under the reference implementation's parameter names.

Our own statement of the paper and of the reference's behaviour (effective initialisation aside: weights come from files). It stands
for the reference where its checkpoints are to be written, read and trained on from.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def sin_cos(rows, columns, width):
    """Fixed positions (1, n, d): columns in the first half of the width, rows in the second; sines before cosines."""
    quarter = width // 4
    frequency = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = [f(place.flatten()[:, None] * frequency) for place in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1).float()[None]


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


def take(tokens, index):
    """tokens (b, n, d), index (b, c) -> (b, c, d)"""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Encoder(nn.Module):
    def __init__(self, image, patch, width, depth, heads, hidden=None):
        super().__init__()
        rows, columns = image[0] // patch, image[1] // patch
        self.pos_embed = nn.Parameter(sin_cos(rows, columns, width), requires_grad=False)
        self.patch_embed = PatchEmbed(patch, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden or 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, index=None):
        x = self.patch_embed(images) + self.pos_embed
        x = x if index is None else take(x, index)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, grid, width, inner, depth, heads):
        super().__init__()
        self.predictor_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.predictor_pos_embed = nn.Parameter(sin_cos(*grid, inner), requires_grad=False)
        self.predictor_blocks = nn.ModuleList(Block(inner, heads, 4 * inner) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(inner, eps=1e-6)
        self.predictor_proj = nn.Linear(inner, width)

    def forward(self, x, context, targets):
        b = len(x)
        positions = self.predictor_pos_embed.expand(b, -1, -1)
        x = self.predictor_embed(x) + take(positions, context)
        outputs = []
        for target in targets:
            y = torch.cat([x, self.mask_token + take(positions, target)], 1)
            for block in self.predictor_blocks:
                y = block(y)
            outputs.append(self.predictor_proj(self.predictor_norm(y)[:, x.shape[1] :]))
        return torch.cat(outputs)


class Wrapped(nn.Module):
    """Prefixes names with `module.`, as DistributedDataParallel does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        return self.module(*inputs)


class Run:
    """Three networks, AdamW with the reference's four groups, and its schedules."""

    def __init__(self, image, patch, width, depth, heads, inner, inner_depth, settings):
        grid = (image[0] // patch, image[1] // patch)
        self.settings, self.step = settings, 0
        self.encoder = Wrapped(Encoder(image, patch, width, depth, heads))
        self.predictor = Wrapped(Predictor(grid, width, inner, inner_depth, heads))
        self.target = Wrapped(Encoder(image, patch, width, depth, heads))
        plain = lambda network, decays: [
            p for name, p in network.named_parameters() if ("bias" not in name and p.dim() != 1) == decays
        ]
        groups = [{"params": plain(network, True)} for network in (self.encoder, self.predictor)]
        groups += [
            {"params": plain(network, False), "WD_exclude": True, "weight_decay": 0}
            for network in (self.encoder, self.predictor)
        ]
        self.optimizer = torch.optim.AdamW(groups)

    def schedules(self):
        s, step = self.settings, self.step
        total, warmup = int(s["ipe_scale"] * s["epochs"] * s["ipe"]), int(s["warmup"] * s["ipe"])
        half_cosine = lambda first, last, share: last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
        k = step + 1
        if k < warmup:
            lr = s["start_lr"] + k / warmup * (s["lr"] - s["start_lr"])
        else:
            lr = max(s["final_lr"], half_cosine(s["lr"], s["final_lr"], (k - warmup) / max(1, total - warmup)))
        decay = min(s["final_wd"], half_cosine(s["wd"], s["final_wd"], k / total))
        momentum = s["ema"][0] + step * (s["ema"][1] - s["ema"][0]) / (s["ipe"] * s["epochs"] * s["ipe_scale"])
        return lr, decay, momentum

    def train(self, batches):
        """One step for each (images, context index, target indices); returns the losses."""
        losses = []
        for images, context, targets in batches:
            lr, decay, momentum = self.schedules()
            for group in self.optimizer.param_groups:
                group["lr"] = lr
                if not group.get("WD_exclude"):
                    group["weight_decay"] = decay
            with torch.no_grad():
                h = self.target(images)
                h = F.layer_norm(h, h.shape[-1:])
                h = torch.cat([take(h, target) for target in targets])
            z = self.predictor(self.encoder(images, context), context, targets)
            loss = F.smooth_l1_loss(z, h)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for average, p in zip(self.target.parameters(), self.encoder.parameters()):
                    average.mul_(momentum).add_(p, alpha=1 - momentum)
            losses.append(loss.item())
            self.step += 1
        return losses

    def save(self, path, **how):
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
        torch.save(
            {
                "encoder": self.encoder.state_dict(),
                "predictor": self.predictor.state_dict(),
                "opt": self.optimizer.state_dict(),
                "scaler": scaler,
                "target_encoder": self.target.state_dict(),
                "epoch": self.step // self.settings["ipe"],
                "loss": 0.5,
                "batch_size": 8,
                "world_size": 1,
                "lr": 0.001,
            },
            path,
            **how,
        )

    def load(self, path):
        """As the reference's loader: every network strictly, then the optimiser, then what a GradScaler asks for."""
        held = torch.load(path, map_location="cpu", weights_only=True)
        for network, name in ((self.encoder, "encoder"), (self.predictor, "predictor"), (self.target, "target_encoder")):
            network.load_state_dict(held[name])
        self.optimizer.load_state_dict(held["opt"])
        torch.amp.GradScaler("cpu", enabled=True).load_state_dict(held["scaler"])
        self.step = held["epoch"] * self.settings["ipe"]
        return held
