"""Writes goldens/interop: a small IJepaModel as `transformers` itself saves it, the same weights as timm saves them, and the tokens that
both compute. `python goldens.py OUT`."""

import sys
from functools import partial
from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import save_file

IMAGE, PATCH, WIDTH, DEPTH, HEADS = 32, 8, 32, 2, 4


def main(out):
    torch.manual_seed(0)
    config = transformers.IJepaConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        layer_norm_eps=1e-6, image_size=IMAGE, patch_size=PATCH,
    )  # fmt: skip
    model = transformers.IJepaModel(config).eval()
    for name, p in model.named_parameters():
        around = 1.0 if "layernorm" in name and name.endswith("weight") else 0.0
        p.data.copy_(around + 0.1 * torch.randn(p.shape))
    folder = out / "transformers"
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)

    vit = timm.models.VisionTransformer(
        img_size=IMAGE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        class_token=False, global_pool="avg", fc_norm=False, num_classes=5,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    theirs, renamed = model.state_dict(), {}
    for name in vit.state_dict():
        block = name.split(".")[1] if name.startswith("blocks.") else None
        last = name.rsplit(".", 1)[-1]
        layer = lambda part: theirs[f"layers.{block}.{part}.{last}"]
        if name.startswith("head."):
            renamed[name] = torch.zeros_like(vit.state_dict()[name])
        elif block is None:
            renamed[name] = theirs[
                {"pos_embed": "embeddings.position_embeddings", "norm": "layernorm"}.get(name.split(".")[0], "")
                + (f".{last}" if name.startswith("norm") else "")
                or f"embeddings.patch_embeddings.projection.{last}"
            ]
        elif "qkv" in name:
            renamed[name] = torch.cat([layer(f"attention.{part}_proj") for part in "qkv"])
        else:
            parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}
            ours = name.split(".", 2)[2].rsplit(".", 1)[0]
            renamed[name] = layer(parts.get(ours, ours))
    vit.load_state_dict(renamed)
    torch.save(vit.state_dict(), out / "timm.pth")

    images, oblong = torch.randn(2, 3, IMAGE, IMAGE), torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        tokens = model(images).last_hidden_state
        assert (tokens - vit.forward_features(images)).abs().max() < 1e-5
        save_file(
            {
                "images": images,
                "tokens": tokens,
                "oblong.images": oblong,
                "oblong.tokens": model(oblong, interpolate_pos_encoding=True).last_hidden_state,
            },
            out / "case.safetensors",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
