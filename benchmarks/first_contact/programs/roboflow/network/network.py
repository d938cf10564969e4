# Framegate's light detector, where weights would be: those that Roboflow hosts need an account.
# FRAMEGATE_NETWORK is the precision and the number of threads that Framegate serves with.
import os

import cv2
import numpy as np
import supervision as sv

from framegate.models import coco
from framegate.models.detector import detector
from framegate.models.picture import NetworkInput, inner_size, padded


class Network:
    def __init__(self):
        precision, threads = os.environ["FRAMEGATE_NETWORK"].split()
        self.detector = detector.load("light", precision, int(threads))
        (self.network,) = self.detector.members

    def __call__(self, image):
        height, width = image.shape[:2]
        inner = inner_size(width, height, self.network.long_side)
        bgr = np.zeros((padded(inner[1]), padded(inner[0]), 3), np.uint8)
        bgr[: inner[1], : inner[0]] = cv2.resize(image, inner)
        pending = self.network.start(NetworkInput(bgr, inner, (width, height)))
        boxes = self.detector.joined([pending.finish()])
        names = np.array([coco.LABELS[each] for each in boxes.class_ids], str)
        return sv.Detections(
            xyxy=boxes.xyxy.copy(),
            confidence=boxes.scores.copy(),
            class_id=boxes.class_ids.astype(int),
            data={"class_name": names},
        )
