"""The 80 classes of COCO, in the order of the networks' outputs."""

from collections.abc import Sequence

from framegate.models.errors import UnknownClass

LABELS: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

N_CLASSES = len(LABELS)

# The default classes: people, vehicles and animals. The other classes are household and sports
# objects, which cause false detections in car parks and corridors.
CAMERA: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "bus", "train", "truck", "boat", "bird", "cat", "dog",
    "horse",
)  # fmt: skip

# COCO's own category ids run to 90, without these ten.
_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORY_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in _UNUSED_IDS)


def class_ids(names: Sequence[str] | None) -> tuple[int, ...]:
    """Return the class indices (0..79, ascending, each once) of `names`, or all 80 for None.

    Raises UnknownClass with every name that is not a label.
    """
    if names is None:
        return tuple(range(N_CLASSES))
    unknown = tuple(name for name in names if name not in LABELS)
    if unknown:
        raise UnknownClass(unknown)
    return tuple(sorted({LABELS.index(name) for name in names}))
