"""Read MATLAB's files, the form of the labels of SBD, PASCAL-Context and PASCAL-Part."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np


def read_mat(path: Path, variable: str) -> Any:
    """A variable of the file: a struct as an object with attributes, a matrix as an array; `elements` lists cells and
    struct arrays."""
    from scipy.io import loadmat  # 0.2 s, for `prepare` only
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except FileNotFoundError:
        raise
    except (MatReadError, zlib.error, ValueError, TypeError, LookupError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} can't be read as a MATLAB file ({error}): is it whole? Unpack it again") from error
    if variable not in content:
        raise ValueError(f"{path} holds no {variable}, but {', '.join(k for k in content if k[0] != '_') or 'nothing'}")
    return content[variable]


def elements(value: Any) -> list[Any]:
    """One struct, many or none -> a list."""
    return list(np.atleast_1d(np.asarray(value, object)).ravel())
