"""From a decoded picture to the numbers that a network takes, with the arithmetic of the training libraries."""

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edgeres.types import Preprocess

PIXELS = PIL.Image.MAX_IMAGE_PIXELS or 1 << 26
"""At most, of an image."""


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """What PIL's own conversion would clip to white or black: 16-bit grey is scaled, floating point refused."""
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def prepare(image: PIL.Image.Image, preprocess: Preprocess) -> NDArray[np.float32]:
    """One RGB image -> float32 (3, crop, crop), with the arithmetic of torchvision's Resize, CenterCrop, Normalize."""
    made: NDArray[np.float32] = normalised([resized(image, preprocess)], preprocess)[0]
    return made


def resized(image: PIL.Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """One RGB image resized and cropped, uint8 (crop, crop, 3); ValueError where it would have more than PIXELS."""
    crop, resize, mode = preprocess.crop, preprocess.resize, preprocess.crop_mode
    width, height = image.size
    edge = max(width, height) if mode == "border" else min(width, height)
    if mode == "squash":
        size = (resize, resize)
    elif mode == "border":
        size = (max(1, round(width / (edge / resize))), max(1, round(height / (edge / resize))))
    else:
        size = (resize * width // edge, resize * height // edge)
    if size[0] * size[1] > PIXELS:
        raise ValueError(f"of {width} x {height} pixels would be resized to {size[0]} x {size[1]}")
    if size != image.size:
        image = image.resize(size, PIL.Image.Resampling[preprocess.interpolation.upper()])
    offset = [(side - crop) / 2 for side in image.size]
    if mode == "border":
        canvas = PIL.Image.new("RGB", (crop, crop), tuple(round(255 * value) for value in preprocess.mean))
        x, y = (-round(one) if one >= 0 else int(-one) for one in offset)
        canvas.paste(image, (x, y))
        return np.asarray(canvas)
    left, top = (int(one) if mode == "floor" else round(one) for one in offset)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def normalised(images: list[NDArray[np.uint8]], preprocess: Preprocess) -> NDArray[np.float32]:
    """Images uint8 (crop, crop, 3) -> float32 (N, 3, crop, crop)."""
    pixels: NDArray[np.float32] = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= np.array(preprocess.mean, np.float32)[:, None, None]
    pixels /= np.array(preprocess.std, np.float32)[:, None, None]
    return pixels
