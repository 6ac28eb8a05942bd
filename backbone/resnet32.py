"""ResNet-32 for images of about 32 pixels (He et al., CVPR 2016, section 4.2)."""

from backbone.blocks import NormFactory, ResidualNetwork, draw_kaiming_normal
from utils.config.registry import BACKBONES


@BACKBONES.register()
class ResNet32(ResidualNetwork):
    """Three stages of five blocks, of 16, 32 and 64 channels, with 1x1 convolutions in the shortcuts.

    In the form that offline continual learning uses (Masana et al., TPAMI 2023; Cha et al., CVPR 2023). Convolutions
    are drawn from N(0, 2 / fan-out) (He et al., ICCV 2015).

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps.
        image_size: side of the images, in pixels; at least 3.
    """

    num_stages = 3

    def __init__(self, norm: NormFactory, *, image_size: int) -> None:
        super().__init__(norm, image_size=image_size, widths=(16, 32, 64), num_blocks=(5, 5, 5))
        draw_kaiming_normal(self)
