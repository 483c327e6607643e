import json
import sys
from importlib.util import find_spec

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import atrous
from atrous.__main__ import main
from atrous.batch import voc_palette
from atrous.command.export import export
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.inference.export import parity
from atrous.inference.network_file import Complete

NAMES = ["ground", "disc", "ring", "square"]
NETWORKS = {
    "small": ["model.backbone.width=8"],
    "vgg": [
        *["model/backbone=vgg16", "model.backbone.width=4", "model.backbone.pool=2", "model/multiscale=features"],
        *["model/head=fc6_4x4", "model.head.hidden=16", "model.multiscale.channels=4"],
    ],
    "inputs": [
        "model.backbone.width=8",
        "model.backbone.dilations=[2]",
        "model/head=aspp_s",
        "model/multiscale=inputs",
    ],
}
PROGRAMS = [
    "torch_export",
    pytest.param(
        "onnx",
        marks=pytest.mark.skipif(
            any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
            reason="needs the extra [export]: onnx, onnxscript, onnxruntime",
        ),
    ),
]


def checkpoint(folder, *overrides):
    """A network of random weights, and the run folder that it could come from."""
    torch.manual_seed(0)
    network = atrous.network(*overrides, num_classes=len(NAMES)).eval()
    for parameter in network.parameters():  # new classifiers are so small that all scores are nearly 0
        torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = OmegaConf.to_container(compose("describe", absences(overrides)).model)
    saved = {
        "state_dict": {f"network.{name}": x for name, x in network.state_dict().items()},
        "atrous": {"config": {"model": model}, "names": NAMES, "palette": voc_palette(len(NAMES)).tolist()},
    }
    (folder / "checkpoint").mkdir(parents=True)
    torch.save(saved, folder / "checkpoint" / "last.ckpt")
    return network


def exported(folder, file_format, out=None):
    return export(OmegaConf.create({"run": str(folder), "format": file_format, "out": out, "trust": False}))


@pytest.mark.parametrize("file_format", ["safetensors", *PROGRAMS])
@pytest.mark.parametrize("overrides", [NETWORKS["vgg"], NETWORKS["inputs"]], ids=["vgg", "inputs"])
def test_an_exported_file_gives_the_networks_scores_at_any_size(file_format, overrides, tmp_path):
    network = checkpoint(tmp_path, *overrides)
    read = atrous.load(exported(tmp_path, file_format))
    assert read.classes == tuple(NAMES)
    assert (read.palette == voc_palette(len(NAMES))).all()
    for B, H, W in [(1, 33, 33), (3, 40, 57), (2, 71, 64), (1, 18, 34)]:
        image = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8)
        with torch.inference_mode():
            expected = network.zoom(network(image), (H, W))
            assert expected.shape == (B, len(NAMES), H, W)
            assert (read.scores(image) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_crf_that_was_trained_with_the_network_fits_no_graph_but_its_weights_are_exported(tmp_path):
    network = checkpoint(tmp_path, "model.backbone.width=8", "model/crf=recurrent")
    for file_format in ("onnx", "torch_export"):
        with pytest.raises(ValueError, match=f"`format={file_format}` can't hold this network: its CRF"):
            exported(tmp_path, file_format)
    read = atrous.load(exported(tmp_path, "safetensors"))
    image = torch.randint(0, 256, (1, 3, 33, 41), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(read.scores(image), network(image), rtol=1e-3, atol=1e-3)


def test_a_safetensors_file_can_be_exported_on(tmp_path):
    checkpoint(tmp_path / "run", *NETWORKS["small"])
    first = exported(tmp_path / "run", "safetensors")
    second = exported(first, "safetensors", tmp_path / "new" / "copy.safetensors")
    assert second.read_bytes() == first.read_bytes()


def test_any_tool_can_read_the_classes_from_a_safetensors_file(tmp_path):
    from safetensors import safe_open

    checkpoint(tmp_path, *NETWORKS["small"])
    with safe_open(exported(tmp_path, "safetensors"), "pt") as file:
        assert json.loads(file.metadata()["atrous"])["names"] == NAMES


def test_a_file_that_computes_something_else_is_found_out(tmp_path):
    overrides = NETWORKS["small"]
    network = checkpoint(tmp_path, *overrides)
    read = atrous.load(exported(tmp_path, "safetensors"))
    assert "at 100.00 % of the pixels" in parity(Complete(network).eval(), read)
    with torch.no_grad():
        network.classifiers()[0].bias[1] += 0.5
    with pytest.raises(FloatingPointError, match="computes something else"):
        parity(Complete(network).eval(), read)


def test_the_command_prints_the_differences_at_three_sizes(tmp_path, capsys):
    run = tmp_path / "head=largefov,seed=3"  # as run folders are named
    checkpoint(run, *NETWORKS["small"])
    assert main(["export", f"run='{run}'"]) == 0
    output = capsys.readouterr().out
    assert [output.count(size) for size in ("1 x 97 x 131", "2 x 129 x 129", "3 x 150 x 200")] == [1, 1, 1]
    assert str(run / "network.safetensors") in output
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint", "network.safetensors"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "`run` must say whose network"),
        (["run=nowhere"], "`run=nowhere`"),
        (["run={tmp}"], "holds no checkpoint/last.ckpt: did you mean"),
        (["run='{run}'", "format=onx"], "`format` must be safetensors, onnx, torch_export (got 'onx')"),
        (["run='{run}'", "out=network.onnx"], "must be a file of its own that ends in .safetensors"),
        (["run='{run}'", "frmat=onnx"], "did you mean format"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_for_export(overrides, message, tmp_path, capsys):
    checkpoint(tmp_path / "run", *NETWORKS["small"])
    overrides = [word.format(tmp=tmp_path, run=tmp_path / "run") for word in overrides]
    assert main(["export", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_packages_the_command_says_which(tmp_path, capsys, monkeypatch):
    checkpoint(tmp_path, *NETWORKS["small"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as where it is not installed
    assert main(["export", f"run='{tmp_path}'", "format=onnx"]) == 2
    message = capsys.readouterr().err
    assert "format=onnx needs" in message
    assert "onnxscript" in message
    assert not list(tmp_path.glob("*.onnx"))
