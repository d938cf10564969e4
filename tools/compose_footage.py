"""Made footage: photographs that a camera moves over, with things cut from others moving in them.

    python -m tools.compose_footage PHOTOGRAPHS LABELS.json OUT.avi [--seed 0]

A seed decides everything: scene, movements, light, noise, blur, and the compression of a camera's
pictures. It has no labels: the heavy pass labels it.
"""

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import ByteArray, Picture, Rect

Random = np.random.Generator

SIZES = ((640, 360), (640, 480), (480, 360), (416, 320), (320, 240))
LEAST_SIDE = 28  # pixels of a cut-out in its photograph
FPS = 15


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture, uint8 (H, W, 3) in the order B, G, R, and where things are in it."""

    bgr: ByteArray
    things: tuple[Rect, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Mover:
    """A cut-out and its way: centre, speed and sway in pixels and frames, growth a frame."""

    bgr: ByteArray
    alpha: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float64]
    speed: npt.NDArray[np.float64]
    sway: tuple[float, float, float]
    scale: float
    growth: float
    there: tuple[int, int]

    def middle(self, t: int) -> tuple[float, float]:
        """Where its centre is in frame `t`: right and down, in pixels."""
        reach, period, phase = self.sway
        x, y = self.centre + self.speed * t
        return float(x), float(y + reach * np.sin(2 * np.pi * t / period + phase))

    def placed(self, t: int, size: tuple[int, int]) -> tuple[ByteArray, npt.NDArray[np.float32]]:
        """Pixels and opacity of it in frame `t`, on a canvas of `size`."""
        scale = self.scale * self.growth**t
        x, y = self.middle(t)
        height, width = self.alpha.shape
        shift = np.array([[scale, 0, x - scale * width / 2], [0, scale, y - scale * height / 2]])
        pixels = cv2.warpAffine(self.bgr, shift, size, flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(self.alpha, shift, size, flags=cv2.INTER_LINEAR)
        return pixels.astype(np.uint8, copy=False), alpha.astype(np.float32, copy=False)


def read_photographs(folder: Path, labels: Path) -> list[Photograph]:
    """All photographs that COCO `labels` list, in the order of their names, with their boxes."""
    listed: dict[str, Any] = json.loads(labels.read_text(encoding="utf-8"))
    boxes: dict[int, list[Rect]] = {}
    for one in listed["annotations"]:
        x, y, w, h = (round(edge) for edge in one["bbox"])
        if min(w, h) >= LEAST_SIDE and not one["iscrowd"]:
            boxes.setdefault(one["image_id"], []).append((x, y, x + w, y + h))
    found = []
    for image in sorted(listed["images"], key=lambda image: str(image["file_name"])):
        bgr = cv2.imread(str(folder / image["file_name"]), cv2.IMREAD_COLOR)
        if bgr is not None:
            pixels = bgr.astype(np.uint8, copy=False)
            found.append(Photograph(pixels, tuple(boxes.get(image["id"], ()))))
    return found


def compose(photographs: Sequence[Photograph], seed: int, n_frames: int) -> list[Picture]:
    """A clip of `n_frames` pictures: the same for the same photographs, seed and programs."""
    rng = np.random.default_rng(seed)
    size = SIZES[int(rng.integers(len(SIZES)))]
    scene = photographs[int(rng.integers(len(photographs)))].bgr
    movers = [_mover(photographs, size, n_frames, rng) for _ in range(rng.integers(0, 5))]
    views = _camera(scene, size, n_frames, rng)
    drawn = [_drawn(view, movers, t, size) for t, view in enumerate(views)]
    return _compressed(list(_seen(drawn, rng)), int(rng.integers(3, 20)))


def _mover(
    photographs: Sequence[Photograph], size: tuple[int, int], n_frames: int, rng: Random
) -> Mover:
    """Something cut from a photograph, with soft edges, standing or on its way."""
    sources = [photograph for photograph in photographs if photograph.things]
    source = sources[int(rng.integers(len(sources)))]
    left, top, right, bottom = source.things[int(rng.integers(len(source.things)))]
    bgr = source.bgr[max(top, 0) : bottom, max(left, 0) : right]
    height = bgr.shape[0]
    alpha = soft_edges(bgr, rng.uniform(0.02, 0.12))
    tall = size[1] * rng.uniform(0.08, 0.7)
    stands = rng.random() < 0.4
    speed = np.zeros(2) if stands else rng.normal(0, [size[0] / 80, size[1] / 300])
    middle = np.array(size) * rng.uniform(0.1, 0.9, 2)
    begin = int(rng.integers(0, n_frames // 2)) if rng.random() < 0.5 else 0
    end = int(rng.integers(n_frames // 2, n_frames)) if rng.random() < 0.3 else n_frames
    return Mover(
        np.ascontiguousarray(bgr),
        alpha,
        middle - speed * n_frames / 2,
        speed,
        (rng.uniform(0, 3) * (not stands), rng.uniform(6, 20), rng.uniform(0, 6)),
        tall / height,
        1.0 if stands else float(np.exp(rng.normal(0, 0.008))),
        (begin, end),
    )


def soft_edges(bgr: ByteArray, rim_share: float) -> npt.NDArray[np.float32]:
    """Opacity of a cut-out: 1 inside, falling to 0 over that share of its shorter side."""
    height, width = bgr.shape[:2]
    inner = np.zeros((height, width), np.float32)
    rim = max(1, round(min(height, width) * rim_share))
    inner[rim : height - rim, rim : width - rim] = 1
    return cv2.blur(inner, (rim, rim)).astype(np.float32, copy=False)


def _camera(
    scene: ByteArray, size: tuple[int, int], n_frames: int, rng: Random
) -> Iterator[ByteArray]:
    """The scene as a camera sees it: still, shaking, or moving and zooming."""
    height, width = scene.shape[:2]
    fill = max(size[0] / width, size[1] / height)
    kind = rng.choice(["still", "shaking", "moving"], p=[0.5, 0.15, 0.35])
    zoom = fill * rng.uniform(1.0, 1.5)
    span = np.array([width * zoom - size[0], height * zoom - size[1]])
    start, end = rng.uniform(0, 1, (2, 2)) * span
    if kind != "moving":
        end = start
    shake = 0.0 if kind == "still" else rng.uniform(0.2, 2.0)
    at = np.zeros(2)
    for t in range(n_frames):
        at = 0.7 * at + rng.normal(0, 1, 2) * shake
        corner = start + (end - start) * t / n_frames + at
        corner = np.clip(corner, 0, span)
        view = np.array([[zoom, 0, -corner[0]], [0, zoom, -corner[1]]])
        seen = cv2.warpAffine(
            scene, view, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
        )
        yield seen.astype(np.uint8, copy=False)


def _drawn(
    view: ByteArray, movers: Sequence[Mover], t: int, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The scene with those that are there at `t`, the later ones in front."""
    canvas = view.astype(np.float32)
    for mover in movers:
        if mover.there[0] <= t < mover.there[1]:
            pixels, alpha = mover.placed(t, size)
            canvas += (pixels - canvas) * alpha[..., None]
    return canvas


def _seen(frames: Sequence[npt.NDArray[np.float32]], rng: Random) -> Iterator[ByteArray]:
    """What a sensor makes of it: light that drifts, blur, noise."""
    noise = rng.uniform(0, 8) if rng.random() < 0.7 else 0.0
    blur = rng.uniform(0.4, 1.8) if rng.random() < 0.4 else 0.0
    gain, drift = rng.uniform(0.5, 1.2), rng.normal(0, 0.003)
    level = rng.uniform(-15, 15)
    smear = int(rng.integers(3, 9)) if rng.random() < 0.15 else 0
    for t, frame in enumerate(frames):
        pixels: npt.NDArray[Any] = frame * (gain + drift * t) + level
        if blur:
            pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
        if smear:
            pixels = cv2.blur(pixels, (smear, 1))
        pixels = pixels + noise * rng.standard_normal(frame.shape, np.float32)
        yield np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _compressed(frames: Sequence[ByteArray], quantiser: int) -> list[Picture]:
    """The pictures after MPEG-4 at a fixed quantiser, 2 (fine) to 31, as a decoder has them."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.options = {"qmin": str(quantiser), "qmax": str(quantiser)}
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as again:
        return [planes_of(frame) for frame in again.decode(video=0)]


def planes_of(frame: av.VideoFrame) -> Picture:
    """A decoded frame of even width and height as a picture that owns its planes."""
    width, height = frame.width, frame.height
    planes = frame.to_ndarray(format="yuv420p").astype(np.uint8, copy=False).reshape(-1)
    luma, half = width * height, (height // 2, width // 2)
    y, u, v = np.split(planes, [luma, luma + half[0] * half[1]])
    return Picture(y.reshape(height, width), u.reshape(half), v.reshape(half), matrix="bt601")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    photographs = read_photographs(arguments.photographs, arguments.labels)
    pictures = compose(photographs, arguments.seed, arguments.frames)
    with av.open(str(arguments.out), "w") as out:
        stream = out.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height = pictures[0].width, pictures[0].height
        stream.pix_fmt = "yuvj420p"
        for picture in pictures:
            planes = [plane.reshape(-1) for plane in (picture.y, picture.u, picture.v)]
            shape = (picture.height * 3 // 2, picture.width)
            frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(shape), "yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    print(arguments.out, len(pictures), f"{pictures[0].width}x{pictures[0].height}")


if __name__ == "__main__":
    main()
