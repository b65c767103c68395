"""An image file as an upright 8-bit RGB picture."""

from __future__ import annotations

import warnings
from os import PathLike

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_image(path: str | PathLike[str]) -> Image.Image:
    """The first frame of an image file as RGB, turned upright by its EXIF orientation.

    Palettes and CMYK are converted, grey is repeated, 16-bit values are scaled to 8, and transparent pixels are laid on
    white. Floating-point pixels are taken as 0 to 1 when none is larger, as 0 to 255 otherwise.

    Raises FileNotFoundError, IsADirectoryError or PermissionError as opening does, and ValueError, naming the file,
    when it is not an image, is broken, or is too large to be safe to decode.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses, where large photographs are, and about odd metadata.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"{path} has more than {limit / 1e6:.0f} million pixels; scale it down first") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged files, SyntaxError for PNG among them
        raise ValueError(f"{path} is a broken image: {str(error) or type(error).__name__}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Integers up to 65535, or floats, to uint8."""
    values = np.nan_to_num(pixels.astype(np.float64))
    if np.issubdtype(pixels.dtype, np.floating):
        values = values * 255 if values.max(initial=0) <= 1 else values
    else:
        values = values / 257
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)
