"""Small faults in the arithmetic that matters: does the quick suite catch each? `make mutate`

Each fault is put into a copy of the project, and the tests named beside it are run there until one fails. A fault that
none of them catches is printed, and the exit code is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    title: str
    file: str
    right: str
    wrong: str
    tests: str  # under tests/


FAULTS = (
    Fault("the CRF's own energy with the other sign", "src/atrous/crf/energy.py", ".log_().neg_()", ".log_()", "crf"),
    Fault(
        "the CRF's message with the other sign",
        "src/atrous/crf/native.py",
        "addcmul_(message, weight)",
        "addcmul_(message, weight, value=-1)",
        "crf",
    ),
    Fault(
        "the lattice blurred by (1/4, 1, 1/4)",
        "src/atrous/crf/lattice.py",
        "new_tensor([1, 0.5, 0.5])",
        "new_tensor([1, 0.25, 0.25])",
        "crf",
    ),
    Fault(
        "the two normalisations exchanged",
        "src/atrous/crf/lattice.py",
        'n.rsqrt() if normalization == "symmetric"',
        'n.rsqrt() if normalization != "symmetric"',
        "crf",
    ),
    Fault(
        "`sample` off by one pixel",
        "src/atrous/model/network.py",
        "label[:, first::step, first::step]",
        "label[:, first + 1 :: step, first::step]",
        "model",
    ),
    Fault(
        "zoom to 8n instead of 8n - 7",
        "src/atrous/model/network.py",
        "self.stride * (n - 1) + 1 for n in logits",
        "self.stride * n for n in logits",
        "model",
    ),
    Fault(
        "Caffe's pictures as RGB",
        "src/atrous/model/network.py",
        '"caffe": Convention(True',
        '"caffe": Convention(False',
        "model",
    ),
    Fault("a rate of ASPP", "src/atrous/model/head/aspp.py", "(6, 12, 18, 24)", "(6, 12, 18, 20)", "model"),
    Fault("a rate of ASPP-S", "conf/model/head/aspp_s.yaml", "[2, 4, 8, 12]", "[2, 4, 8, 16]", "model"),
    Fault(
        "fused ASPP with its taps turned round",
        "src/atrous/model/head/aspp.py",
        "layer.weight.flip(2, 3)",
        "layer.weight",
        "model",
    ),
    Fault("fc6 decimated to its middle", "src/atrous/model/head/aspp.py", "3: (0, 3, 6)", "3: (2, 3, 4)", "model"),
    Fault(
        "a receptive field that forgets the stride",
        "src/atrous/model/atrous.py",
        "size += reach * jump",
        "size += reach",
        "model",
    ),
    Fault(
        "poly to the power of 1",
        "src/atrous/schedule.py",
        "power: float = 0.9",
        "power: float = 1.0",
        "test_schedule.py",
    ),
    Fault(
        "the step policy half a step early",
        "src/atrous/schedule.py",
        "factor ** (iteration // every)",
        "factor ** round(iteration / every)",
        "test_schedule.py",
    ),
    Fault(
        "the classifier's biases as fast as its weights",
        "src/atrous/optim.py",
        "(classifier * bias, 0.0)",
        "(classifier, 0.0)",
        "test_optim.py run/test_train.py",
    ),
    Fault(
        "biases that decay",
        "src/atrous/optim.py",
        '"bias": (bias, 0.0)',
        '"bias": (bias, weight_decay)',
        "test_optim.py",
    ),
    Fault(
        "the loss divided by all positions",
        "src/atrous/loss.py",
        "(label != IGNORE).sum().clamp(1)",
        "label.numel()",
        "test_loss.py",
    ),
    Fault("IGNORE is 0", "src/atrous/batch.py", "IGNORE = 255", "IGNORE = 0", "test_loss.py metric/test_confusion.py"),
    Fault(
        "truth and prediction exchanged in the matrix",
        "src/atrous/metric/confusion.py",
        "label[valid].long() * classes + prediction[valid].long()",
        "prediction[valid].long() * classes + label[valid].long()",
        "metric/test_confusion.py",
    ),
    Fault(
        "trimaps by Euclid's distance",
        "src/atrous/metric/boundary.py",
        "cv2.DIST_C",
        "cv2.DIST_L2",
        "metric/test_confusion.py",
    ),
    Fault(
        "an IoU that counts what is right twice",
        "src/atrous/metric/confusion.py",
        "hit / (truth + predicted - hit)\n\n\n",
        "hit / (truth + predicted)\n\n\n",
        "metric/test_confusion.py",
    ),
    Fault(
        "the seed left out of the augmentation",
        "src/atrous/datamodule.py",
        "[self.seed, 1, position]",
        "[1, position]",
        "test_datamodule.py",
    ),
    Fault(
        "every round in the order of the first",
        "src/atrous/datamodule.py",
        "[self.seed, 0, round_]",
        "[self.seed, 0, 0]",
        "test_datamodule.py",
    ),
    Fault(
        "a rank that counts a picture twice",
        "src/atrous/datamodule.py",
        "range(rank, length, world)",
        "range(max(rank - 1, 0), length, world)",
        "test_datamodule.py",
    ),
    Fault(
        "a resume that draws the same pictures again",
        "src/atrous/datamodule.py",
        "start=trainer.global_step * self.total_batch",
        "start=trainer.global_step * self.device_batch",
        "run/test_train.py",
    ),
    Fault(
        "labels scaled to the pixel below",
        "src/atrous/augment/window.py",
        "2 * np.arange(start, start + length) + 1",
        "2 * np.arange(start, start + length)",
        "augment/test_window.py",
    ),
    Fault(
        "a mirrored look that is not turned back",
        "src/atrous/model/tta.py",
        "y = y.flip(-1) if flip else y",
        "y = y",
        "model/test_tta.py",
    ),
)


def caught(fault: Fault) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "conf", "sweeps", "tests", "pyproject.toml"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        path = copy / fault.file
        code = path.read_text()
        assert code.count(fault.right) == 1, f"{fault.file} holds {fault.right!r} {code.count(fault.right)} times"
        path.write_text(code.replace(fault.right, fault.wrong))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-m", "not slow", "-p", "no:cacheprovider"]
        tests = [f"tests/{name}" for name in fault.tests.split()]
        env = os.environ | {"PYTHONPATH": str(copy / "src")}
        done = subprocess.run([*command, *tests], cwd=copy, env=env, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{fault.title}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.returncode == 1


def main() -> int:
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        missed = 0
        for fault, good in zip(FAULTS, pool.map(caught, FAULTS)):
            missed += not good
            print(f"{'caught' if good else 'MISSED'}  {fault.file:28} {fault.title}", flush=True)
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
