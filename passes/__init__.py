"""The passes. Each file holds one; each docstring's first line is its help in the shell."""

from fxprune.passes.combine_scales import CombineScales
from fxprune.passes.drop_dropout import DropDropout
from fxprune.passes.drop_identities import DropIdentities
from fxprune.passes.drop_redundant_activations import DropRedundantActivations
from fxprune.passes.eliminate_dead_code import EliminateDeadCode
from fxprune.passes.fold_batch_norm import FoldBatchNorm
from fxprune.passes.fold_scale import FoldScale
from fxprune.passes.freeze_weights import FreezeWeights
from fxprune.passes.fuse_branch_scale import FuseBranchScale
from fxprune.passes.fuse_channel_gate import FuseChannelGate
from fxprune.passes.fuse_resconv import FuseResConv
from fxprune.passes.insert_branch_scale import InsertBranchScale
from fxprune.passes.insert_channel_attention import InsertChannelAttention
from fxprune.passes.insert_channel_gate import InsertChannelGate
from fxprune.passes.insert_resconv import InsertResConv
from fxprune.passes.mask_partition import MaskPartition
from fxprune.passes.measure_norms import MeasureNorms
from fxprune.passes.partition_linear import PartitionLinear
from fxprune.passes.propagate_zeros import PropagateZeros
from fxprune.passes.remove_branches import RemoveBranches
from fxprune.passes.remove_channels import RemoveChannels
from fxprune.passes.remove_layers import RemoveLayers
from fxprune.passes.remove_resconvs import RemoveResConvs
from fxprune.passes.remove_unused_submodules import RemoveUnusedSubmodules
from fxprune.passes.repair import Repair
from fxprune.passes.reset_weights import ResetWeights
from fxprune.passes.simplify import Simplify
from fxprune.passes.split_attention import SplitAttention
from fxprune.passes.split_resconv import SplitResConv

__all__ = [
    "CombineScales",
    "DropDropout",
    "DropIdentities",
    "DropRedundantActivations",
    "EliminateDeadCode",
    "FoldBatchNorm",
    "FoldScale",
    "FreezeWeights",
    "FuseBranchScale",
    "FuseChannelGate",
    "FuseResConv",
    "InsertBranchScale",
    "InsertChannelAttention",
    "InsertChannelGate",
    "InsertResConv",
    "MaskPartition",
    "MeasureNorms",
    "PartitionLinear",
    "PropagateZeros",
    "RemoveBranches",
    "RemoveChannels",
    "RemoveLayers",
    "RemoveResConvs",
    "RemoveUnusedSubmodules",
    "Repair",
    "ResetWeights",
    "Simplify",
    "SplitAttention",
    "SplitResConv",
]
