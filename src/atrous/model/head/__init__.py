"""Heads: from the features of a backbone to logits. One file of this folder is one family; `contract` says what each
must have."""

from atrous.model.head.aspp import ASPP
from atrous.model.head.context import Context
from atrous.model.head.contract import Head
from atrous.model.head.deeplab3 import DeepLabV3, DeepLabV3Plus, UNet
from atrous.model.head.fcn import FCN
from atrous.model.head.segnet import DeconvNet, SegNet

__all__ = ["ASPP", "FCN", "Context", "DeconvNet", "DeepLabV3", "DeepLabV3Plus", "Head", "SegNet", "UNet"]
