"""Counts of pixels near void (trimaps) and near the contours (Boundary IoU), which a confusion matrix cannot give."""

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
    """Count the pixels at each distance of 1 … WIDTHS from void: (H, W) uint8 each -> (WIDTHS, C, C) int64.

    Paper: void is dilated by a square of side 2w + 1, so the distance is the larger of the two along the axes.
    """
    distance = cv2.distanceTransform((label != IGNORE).astype(np.uint8), cv2.DIST_C, 3)
    near = (distance > 0) & (distance <= WIDTHS)
    width = distance[near].astype(np.int64) - 1
    pairs = (width * classes + label[near]) * classes + prediction[near]
    return np.bincount(pairs, minlength=WIDTHS * classes**2).reshape(WIDTHS, classes, classes)


def near_boundary(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each class's boundary: in both, in the truth's, in the prediction's.

    (H, W) uint8 each -> (3, C) int64. The boundary of a class is its pixels within BOUNDARY of its contour or of the
    picture's edge; void belongs to no class.
    """
    reach = max(1, round(BOUNDARY * math.hypot(*label.shape)))
    prediction = np.where(label == IGNORE, np.uint8(IGNORE), prediction)
    truth, predicted = boundary(label, reach), boundary(prediction, reach)
    both = truth & predicted & (label == prediction)
    return np.stack([np.bincount(x, minlength=classes) for x in (label[both], label[truth], prediction[predicted])])


def boundary(label: np.ndarray, reach: int) -> np.ndarray:
    """Mark (H, W) bool the pixels with another class, void or the picture's edge within `reach`; void is not marked.

    This is all classes at once: a pixel is missing from the eroded mask of its class where its neighbourhood is not all
    of that class.
    """
    padded = np.pad(label, reach, constant_values=IGNORE)
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inner = slice(reach, -reach)
    most, least = cv2.dilate(padded, window)[inner, inner], cv2.erode(padded, window)[inner, inner]
    return (most != least) & (label != IGNORE)
