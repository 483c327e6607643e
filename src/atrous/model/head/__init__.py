"""Heads: from the features of a backbone to logits. One file of this folder is one family; `contract` says what each
must have."""

from atrous.model.head.aspp import ASPP
from atrous.model.head.contract import Head

__all__ = ["ASPP", "Head"]
