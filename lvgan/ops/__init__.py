"""The filtering operators, as public functions with exact PyTorch references."""

from lvgan.ops.bias_act import bias_act
from lvgan.ops.filtered_lrelu import filtered_lrelu
from lvgan.ops.upfirdn2d import downsample2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["bias_act", "downsample2d", "filtered_lrelu", "setup_filter", "upfirdn2d", "upsample2d"]
