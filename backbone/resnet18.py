"""ResNet-18 of any width for small images.

The network of He et al. (Deep Residual Learning for Image Recognition, CVPR 2016) in the form that online continual
learning uses (Buzzega et al., NeurIPS 2020; Lyu et al., NeurIPS 2023): a 3x3 stem of stride 1, no max-pooling, and an
average over the whole last map, so that 16, 32, 64 and 84 pixels all work.
"""

from backbone.blocks import WIDTH_OPTION, NormFactory, ResidualNetwork
from utils.config.registry import BACKBONES


@BACKBONES.register()
class ResNet18(ResidualNetwork):
    """Four stages of two blocks, of nf, 2 nf, 4 nf and 8 nf channels; PyTorch's default initialisation.

    Args:
        norm: makes a norm layer from its number of channels and the side of its maps.
        image_size: side of the images, in pixels; at least 5.
        nf: base width; the features are 8 nf.
    """

    options = (WIDTH_OPTION,)

    def __init__(self, norm: NormFactory, *, image_size: int, nf: int = WIDTH_OPTION.default) -> None:
        super().__init__(norm, image_size=image_size, widths=(nf, 2 * nf, 4 * nf, 8 * nf), num_blocks=(2, 2, 2, 2))
