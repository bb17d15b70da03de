"""Linear heads trained by PyTorch, step by step: goldens/heads/cases.safetensors, which a test of ijepa-eval repeats.

Run by `cargo xtask peers eval --goldens`. Features, labels and first weights come from a keyed generator (SplitMix64), from no data set.
The heads of a case see the same batches; each has an optimiser of its own, as if it were alone.
"""

import argparse
import math

import numpy
import torch
from safetensors.torch import save_file
from torch import nn

ROWS, BATCH, CLASSES, EPOCHS = 48, 16, 5, 10
WIDTHS = [12, 20]
STEPS_PER_EPOCH = ROWS // BATCH
KEPT = [1, 2, 5, 10, 20, 30]

#  set of features, BatchNorm, rate for a batch of 256, weight decay
HEADS = [
    (0, True, 1.6, 5e-4),
    (0, False, 1.6, 5e-4),
    (0, True, 0.4, 0.0),
    (0, False, 0.4, 0.05),
    (1, True, 1.6, 0.01),
    (1, False, 0.8, 0.01),
]


def multistep(milestones):
    return lambda step: 0.1 ** sum(milestone <= step // STEPS_PER_EPOCH for milestone in milestones)


def cosine(warmup, end):
    def share(step):
        epoch = step / STEPS_PER_EPOCH
        if epoch < warmup:
            return epoch / warmup
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (EPOCHS - warmup)))

    return share


class Lars(torch.optim.Optimizer):
    """Layer-wise rates for weights; biases and normalisation move as in SGD, without decay."""

    def __init__(self, params, lr, weight_decay, trust=0.001, momentum=0.9):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "trust": trust, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.ndim > 1:
                    update = update + group["weight_decay"] * parameter
                    own, other = parameter.norm(), update.norm()
                    if own > 0 and other > 0:
                        update = update * (group["trust"] * own / other)
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(update)
                parameter.sub_(group["lr"] * momentum)


def sgd(nesterov, decay_norm):
    def make(head, decay):
        norm = [p for name, p in head.named_parameters() if name.startswith("norm")]
        rest = [p for name, p in head.named_parameters() if not name.startswith("norm")]
        groups = [{"params": rest}]
        if norm:
            groups.append({"params": norm, "weight_decay": decay if decay_norm else 0.0})
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=nesterov, weight_decay=decay)

    return make


#  optimiser, rates of the heads times this, schedule
CASES = {
    "nesterov": (sgd(True, True), 1.0, multistep([4, 8])),
    "plain": (sgd(False, True), 1.0, cosine(0, 0.01)),
    "vissl": (sgd(True, False), 1.0, cosine(2, 0.0)),
    "lars": (lambda head, decay: Lars(head.parameters(), 0.0, decay, trust=0.02), 10.0, multistep([4, 8])),
}


class Draws:
    """SplitMix64, as in the tests of ijepa-eval."""

    MASK = (1 << 64) - 1

    def __init__(self, state):
        self.state = state

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & self.MASK
        return z ^ (z >> 31)

    def bell(self):
        return sum((self.next() >> 11) / (1 << 53) for _ in range(12)) - 6.0

    def bells(self, *shape):
        return torch.tensor([self.bell() for _ in range(math.prod(shape))], dtype=torch.float32).reshape(shape)


class Head(nn.Module):
    def __init__(self, width, norm, draws):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-5, momentum=0.1) if norm else None
        self.linear = nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.linear.weight.copy_(0.01 * draws.bells(CLASSES, width))
            self.linear.bias.copy_(0.1 * draws.bells(CLASSES))
            if norm:
                self.norm.weight.copy_(1 + 0.1 * draws.bells(width))
                self.norm.bias.copy_(0.1 * draws.bells(width))

    def forward(self, x):
        return self.linear(x if self.norm is None else self.norm(x))

    def parameters_now(self):
        parts = {"weights": self.linear.weight, "bias": self.linear.bias}
        if self.norm is not None:
            parts |= {"scale": self.norm.weight, "shift": self.norm.bias}
        return {name: value.detach().clone() for name, value in parts.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)

    draws = Draws(2024)
    labels = torch.tensor([draws.next() % CLASSES for _ in range(ROWS)])
    sets = []
    for width in WIDTHS:
        centres = draws.bells(CLASSES, width)
        scales = torch.tensor([0.2 + 0.3 * (column % 5) for column in range(width)])
        sets.append((draws.bells(ROWS, width) + centres[labels]) * scales + 0.7)
    out = {"labels": labels.int()} | {f"features.{at}": values for at, values in enumerate(sets)}
    for case, (make, rates, schedule) in CASES.items():
        losses = torch.zeros(EPOCHS * STEPS_PER_EPOCH, len(HEADS))
        for at, (which, norm, rate, decay) in enumerate(HEADS):
            head = Head(WIDTHS[which], norm, draws)
            kept = {name: [value] for name, value in head.parameters_now().items()}
            optimiser = make(head, decay)
            for step in range(EPOCHS * STEPS_PER_EPOCH):
                for group in optimiser.param_groups:
                    group["lr"] = rate * rates * BATCH / 256 * schedule(step)
                first = step % STEPS_PER_EPOCH * BATCH
                rows = slice(first, first + BATCH)
                loss = nn.functional.cross_entropy(head(sets[which][rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses[step, at] = loss.detach()
                if step + 1 in KEPT:
                    for name, value in head.parameters_now().items():
                        kept[name].append(value)
            out |= {f"{case}.{at}.{name}": torch.stack(values) for name, values in kept.items()}
            head.eval()
            out[f"{case}.{at}.scores"] = head(sets[which]).detach()
            if norm:
                out[f"running.{which}"] = torch.stack([head.norm.running_mean, head.norm.running_var])
        out[f"{case}.losses"] = losses
    save_file({name: value.contiguous() for name, value in out.items()}, args.out)
    size = sum(value.numel() for value in out.values())
    print(f"{len(out)} tensors, {size} values, numpy {numpy.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
