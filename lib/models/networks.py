"""The networks of Keras Applications by their names in a SPEC, known without importing Keras."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class KerasNetwork:
    """One network of Keras Applications.

    Attributes:
        module: Its module in `keras.applications`, which has the preprocessing.
        function: Its constructor in that module.
        smallest: Least side of its input in pixels, without the classifier.
        has_alpha: Whether the constructor takes the width multiplier `alpha`.
        scales_imagenet: Whether Keras scales the input further, but only if told that the weights are ImageNet's.
    """

    module: str
    function: str
    smallest: int = 32
    has_alpha: bool = False
    scales_imagenet: bool = False


KERAS_NETWORKS: Mapping[str, KerasNetwork] = {
    "convnext_tiny": KerasNetwork("convnext", "ConvNeXtTiny"),
    "convnext_small": KerasNetwork("convnext", "ConvNeXtSmall"),
    "convnext_base": KerasNetwork("convnext", "ConvNeXtBase"),
    "convnext_large": KerasNetwork("convnext", "ConvNeXtLarge"),
    "convnext_xlarge": KerasNetwork("convnext", "ConvNeXtXLarge"),
    "densenet121": KerasNetwork("densenet", "DenseNet121"),
    "densenet169": KerasNetwork("densenet", "DenseNet169"),
    "densenet201": KerasNetwork("densenet", "DenseNet201"),
    **{f"efficientnet_b{n}": KerasNetwork("efficientnet", f"EfficientNetB{n}", scales_imagenet=True) for n in range(8)},
    **{f"efficientnet_v2_b{n}": KerasNetwork("efficientnet_v2", f"EfficientNetV2B{n}") for n in range(4)},
    **{f"efficientnet_v2_{n}": KerasNetwork("efficientnet_v2", f"EfficientNetV2{n.upper()}") for n in "sml"},
    "inception_resnet_v2": KerasNetwork("inception_resnet_v2", "InceptionResNetV2", smallest=75),
    "inception_v3": KerasNetwork("inception_v3", "InceptionV3", smallest=75),
    "mobilenet": KerasNetwork("mobilenet", "MobileNet", has_alpha=True),
    "mobilenet_v2": KerasNetwork("mobilenet_v2", "MobileNetV2", has_alpha=True),
    "mobilenet_v3_large": KerasNetwork("mobilenet_v3", "MobileNetV3Large", has_alpha=True),
    "mobilenet_v3_small": KerasNetwork("mobilenet_v3", "MobileNetV3Small", has_alpha=True),
    "nasnet_large": KerasNetwork("nasnet", "NASNetLarge"),
    "nasnet_mobile": KerasNetwork("nasnet", "NASNetMobile"),
    "resnet50": KerasNetwork("resnet", "ResNet50"),
    "resnet101": KerasNetwork("resnet", "ResNet101"),
    "resnet152": KerasNetwork("resnet", "ResNet152"),
    "resnet50_v2": KerasNetwork("resnet_v2", "ResNet50V2"),
    "resnet101_v2": KerasNetwork("resnet_v2", "ResNet101V2"),
    "resnet152_v2": KerasNetwork("resnet_v2", "ResNet152V2"),
    "vgg16": KerasNetwork("vgg16", "VGG16"),
    "vgg19": KerasNetwork("vgg19", "VGG19"),
    "xception": KerasNetwork("xception", "Xception", smallest=71),
}
