"""What a confusion matrix cannot say: how well the pixels near void and near the contours are classified."""

from __future__ import annotations

import math

import cv2
import numpy as np

from atrous.batch import IGNORE

WIDTHS = 40
"""Paper: trimaps of 1 to 40 pixels around void (v1 figure 5, v2 figure 10)."""

BOUNDARY = 0.02
"""The width of a boundary, of the picture's diagonal, as in Cheng et al. (Boundary IoU, CVPR 2021)."""


def near_void(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) uint8 each -> (WIDTHS, C, C) int64: `confusion` of the pixels at a distance of 1 … WIDTHS from void.

    Paper: void is dilated by a square of side 2w + 1, so the distance is the larger of the two along the axes.
    """
    distance = cv2.distanceTransform((label != IGNORE).astype(np.uint8), cv2.DIST_C, 3)
    near = (distance > 0) & (distance <= WIDTHS)
    width = distance[near].astype(np.int64) - 1
    pairs = (width * classes + label[near]) * classes + prediction[near]
    return np.bincount(pairs, minlength=WIDTHS * classes**2).reshape(WIDTHS, classes, classes)


def near_boundary(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) uint8 each -> (3, C) int64: of each class's boundaries in the truth and in the prediction, the pixels in
    both, in the truth's, in the prediction's. A class's boundary is what lies in it within BOUNDARY of its contour or
    of the picture's edge; void belongs to no class."""
    reach = max(1, round(BOUNDARY * math.hypot(*label.shape)))
    prediction = np.where(label == IGNORE, np.uint8(IGNORE), prediction)
    truth, found = boundary(label, reach), boundary(prediction, reach)
    same = truth & found & (label == prediction)
    return np.stack([np.bincount(x, minlength=classes) for x in (label[same], label[truth], prediction[found])])


def boundary(label: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: the pixels that have another class, void or the picture's edge within `reach`, void itself not.

    For every class at once: the pixels of one that its eroded mask lacks are those around which not all is that class.
    """
    padded = np.pad(label, reach, constant_values=IGNORE)
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inner = slice(reach, -reach)
    most, least = cv2.dilate(padded, window)[inner, inner], cv2.erode(padded, window)[inner, inner]
    return (most != least) & (label != IGNORE)
