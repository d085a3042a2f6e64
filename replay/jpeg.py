"""JPEG of single frames, for shards and for the Zarr codec.

OpenCV is loaded at the first frame: raw stores never need it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_jpeg(frame: NDArray[np.uint8], quality: int) -> bytes:
    """Encode [H, W, 3] RGB; ``quality`` is 1 to 100."""
    import cv2

    is_ok, encoded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not is_ok:
        raise ValueError(f"OpenCV could not encode a frame {frame.dtype} {frame.shape} as JPEG; expected uint8 [H, W, 3]")
    return encoded.tobytes()


def decode_jpeg(encoded: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Decode to [H, W, 3] RGB; None if these bytes are no JPEG."""
    import cv2

    frame: Any = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return frame
