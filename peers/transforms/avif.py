"""Writes goldens/avif: small AVIF files, and what Pillow (libavif) makes of them, for the tests of our decoder.

    python avif.py OUT        # with pillow and imagecodecs (which writes 10 and 12 bits)
"""

import io
import pathlib
import sys

import imagecodecs
import numpy
from PIL import Image, ImageOps

WIDTH, HEIGHT = 41, 30


def picture(channels=3):
    """Gradients with edges, a checkerboard and a little noise; the last of four channels is the alpha."""
    y, x = numpy.mgrid[:HEIGHT, :WIDTH]
    noise = numpy.random.default_rng(0).integers(-6, 7, (HEIGHT, WIDTH, 3))
    planes = numpy.stack([x * 255 // WIDTH, y * 255 // HEIGHT, numpy.where((x // 7 + y // 5) % 2, 220, 40)], -1)
    rgb = numpy.clip(planes + noise, 0, 255)
    alpha = 55 + (x + y)[..., None] * 200 // (WIDTH + HEIGHT)
    return numpy.concatenate([rgb, alpha], -1)[..., :channels].astype(numpy.uint8)


def pillow(image, **options):
    out = io.BytesIO()
    image.save(out, "AVIF", quality=85, speed=6, max_threads=1, **options)
    return out.getvalue()


def deep(bits, layout):
    values = (picture().astype(numpy.uint32) * ((1 << bits) - 1) // 255).astype(numpy.uint16)
    values = values[..., :1] if layout == "400" else values
    return imagecodecs.avif_encode(values, level=85, bitspersample=bits, pixelformat=layout, numthreads=1)


def with_matrix(data, matrix):
    """The same samples said to be of other colours; none of the encoders here writes them all."""
    at = data.index(b"nclx") + 8
    return data[:at] + matrix.to_bytes(2, "big") + data[at + 2 :]


def cases():
    rgb, rgba = Image.fromarray(picture()), Image.fromarray(picture(4))
    for layout in ("4:2:0", "4:2:2", "4:4:4", "4:0:0"):
        name = layout.replace(":", "")
        yield f"{name}", pillow(rgb, subsampling=layout)
        yield f"{name}_limited", pillow(rgb, subsampling=layout, range="limited")
    full = pillow(rgb, subsampling="4:4:4")
    for matrix in (0, 1, 2, 4, 7, 8, 9):
        yield f"444_matrix{matrix}", with_matrix(full, matrix)
    yield "420_limited_matrix1", with_matrix(pillow(rgb, range="limited"), 1)
    yield "alpha", pillow(rgba)
    yield "alpha_multiplied", pillow(rgba, alpha_premultiplied=True)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        yield f"orientation{orientation}", pillow(rgb, exif=exif)
    for bits in (10, 12):
        for layout in ("420", "422", "444", "400"):
            yield f"{layout}_{bits}bit", deep(bits, layout)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, data in cases():
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        (out / f"{name}.avif").write_bytes(data)
        upright.save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
