# The published network: DeepLabV3+ on a dilated deep-stem (64-64-128) ResNet-101, output stride 8. Its ImageNet weights
# have no public URL that mmengine can read: tools/model_converters/published2mmseg.py converts them.
_base_ = './deeplabv3plus_r101.py'
model = dict(backbone=dict(stem_channels=128, init_cfg=dict(checkpoint='checkpoints/resnet101_deepstem.pth')))
