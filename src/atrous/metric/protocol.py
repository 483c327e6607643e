"""The protocol of a score (pictures, size, augmentation, CRF): scores compare only where their protocols are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from atrous.batch import IGNORE, name_of


def refiner_title(crf: Mapping[str, Any] | None) -> str:
    """Name the kind of refiner that a configuration states, for headings: "with …"."""
    kind = (crf or {}).get("_target_", "DenseCRF").rpartition(".")[2]
    return "the CRF" if kind == "DenseCRF" else kind


def protocol(
    name: str,
    split: Any,
    indices: Sequence[int],
    crf: Mapping[str, Any] | None,
    precision: str,
    view: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe how these pictures of a split were scored, and how many of them the CRF was chosen on.

    `view`: the settings of the test-time augmentation.
    """
    chosen_on = set((crf or {}).get("chosen_on") or ())
    names = [name_of(split, index) for index in indices]
    return {
        "split": name,
        "pictures": len(indices),
        "list": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12],
        "size": "native",
        **view,
        "crf": None if crf is None else {key: value for key, value in crf.items() if key != "chosen_on"},
        "crf_chosen_on": sum(name in chosen_on for name in names),
        "ignore": IGNORE,
        "precision": precision,
    }
