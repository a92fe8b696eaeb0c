"""Small networks of MMSegmentation's families whose heads do more than give one map of logits."""

import builders
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS

BN = dict(type='BN')
CE = builders.CROSS_ENTROPY
OHEM = dict(type='OhemCrossEntropy', thres=0.9, min_kept=1000)
OHEM_WEIGHTED = dict(OHEM, class_weight=[1.0, 2.0, 1.0, 0.5, 1.0])
SIGMOID = dict(CE, use_sigmoid=True)
WEIGHTED = dict(CE, class_weight=[0.1, 1.0, 2.0, 1.0, 1.0])


def head(kind, **options):
    """A head on the deepest feature of the narrow ResNet of ``builders``."""
    common = dict(in_channels=64, in_index=3, channels=8, num_classes=builders.NUM_CLASSES, norm_cfg=BN)
    return dict(common, type=kind, align_corners=False, loss_decode=CE, **options)


def of(backbone, decode_head, **rest):
    """A segmentor."""
    base = builders.segmentor()
    return dict(base, backbone=backbone or base['backbone'], decode_head=decode_head, train_cfg={}, **rest)


def knet():
    updator = dict(type='KernelUpdator', in_channels=8, feat_channels=8, out_channels=8, norm_cfg=dict(type='LN'))
    stage = dict(type='KernelUpdateHead', num_classes=builders.NUM_CLASSES, num_heads=2, feedforward_channels=8)
    stage |= dict(in_channels=8, out_channels=8, kernel_updator_cfg=updator, with_ffn=True)
    stage['feat_transform_cfg'] = dict(conv_cfg=dict(type='Conv2d'), act_cfg=None)
    generate = head('FCNHead', num_convs=1, concat_input=False)
    decode = dict(type='IterativeDecodeHead', num_stages=2, kernel_generate_head=generate)
    return of(None, dict(decode, kernel_update_head=[stage, stage]))


def pidnet():
    decode = dict(head('PIDHead'), in_channels=16, loss_decode=[WEIGHTED | dict(avg_non_ignore=False), OHEM])
    decode['loss_decode'] += [dict(type='BoundaryLoss', loss_weight=20.0), OHEM]
    decode.pop('in_index')
    backbone = dict(type='PIDNet', channels=4, ppm_channels=4, num_stem_blocks=1, num_branch_blocks=1, norm_cfg=BN)
    return of(dict(backbone, in_channels=3, act_cfg=dict(type='ReLU', inplace=True)), decode)


def ddrnet():
    decode = dict(head('DDRHead'), in_channels=16, loss_decode=[OHEM_WEIGHTED, OHEM])
    decode.pop('in_index')
    return of(dict(type='DDRNet', in_channels=3, channels=4, ppm_channels=4, norm_cfg=BN), decode)


def stdc():
    """As MMSegmentation configures it: one of its auxiliary heads learns boundaries, two classes of its own."""
    backbone = dict(type='STDCNet', stdc_type='STDCNet1', in_channels=3, channels=(4, 8, 16, 32, 64))
    backbone |= dict(bottleneck_type='cat', num_convs=4, norm_cfg=BN, act_cfg=dict(type='ReLU'), with_final_conv=False)
    path = dict(type='STDCContextPathNet', backbone_cfg=backbone, last_in_channels=(64, 32), out_channels=8)
    path['ffm_cfg'] = dict(in_channels=24, out_channels=16, scale_factor=4)
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
    boundary = builders.fcn(0, 16, num_classes=2, type='STDCHead', boundary_threshold=0.1)
    boundary['loss_decode'] = [SIGMOID, dict(type='DiceLoss')]
    auxiliary = [builders.fcn(2, 8, sampler=sampler), boundary]
    return of(path, builders.fcn(3, 16, sampler=sampler), auxiliary_head=auxiliary)


def dpt():
    """Features with class tokens beside them."""
    backbone = dict(type='VisionTransformer', img_size=32, patch_size=8, embed_dims=16, num_layers=4, num_heads=2)
    backbone |= dict(out_indices=(0, 1, 2, 3), final_norm=False, with_cls_token=True, output_cls_token=True)
    decode = dict(head('DPTHead'), in_channels=(16,) * 4, in_index=(0, 1, 2, 3), input_transform='multiple_select')
    decode |= dict(embed_dims=16, post_process_channels=[4, 8, 8, 16], readout_type='project', patch_size=8)
    return of(backbone, decode)


def pointrend():
    """Its second head predicts at points; the operator that samples them is compiled (mmcv.ops.point_sample)."""
    neck = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4)
    coarse = dict(head('FPNHead'), in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 8, 8])
    points = dict(head('PointHead', num_fcs=1), in_channels=[8], in_index=[0])
    points.pop('norm_cfg')
    network = of(None, [coarse, points], neck=neck, num_stages=2)
    settings = dict(num_points=64, oversample_ratio=3, importance_sample_ratio=0.75)
    test = dict(mode='whole', subdivision_steps=2, subdivision_num_points=64, scale_factor=2)
    return dict(network, type='CascadeEncoderDecoder', train_cfg=settings, test_cfg=test)


def encnet():
    decode = head('EncHead', num_codes=4, use_se_loss=True, add_lateral=False)
    decode |= dict(in_channels=[32, 64], in_index=(2, 3), loss_se_decode=SIGMOID)
    return of(None, decode, auxiliary_head=builders.fcn(2, 32))


def timm():
    backbone = dict(type='mmpretrain.TIMMBackbone', model_name='mobilenetv3_small_050', features_only=True)
    return of(dict(backbone, pretrained=False), dict(head('FCNHead', num_convs=1), in_channels=288, in_index=-1))


@MODELS.register_module()
class QueryHead(BaseModule):
    """A mask classifier as MaskFormer is: queries with a class and a mask each; the last class is nothing."""

    align_corners, ignore_index = False, 255

    def __init__(self, num_classes, channels=64, queries=7):
        super().__init__()
        self.num_classes = self.out_channels = num_classes
        self.classes = torch.nn.Parameter(torch.randn(queries, num_classes + 1))
        self.masks = torch.nn.Conv2d(channels, queries, 1)

    def forward(self, features, data_samples):
        assert len(data_samples) == len(features[-1])
        return [self.classes], [self.masks(features[-1])]

    def predict(self, features, metas, test_cfg):
        (classes,), (masks,) = self(features, metas)
        masks = F.interpolate(masks, metas[0]['img_shape'], mode='bilinear').sigmoid()
        return torch.einsum('qc,nqhw->nchw', classes.softmax(-1)[:, :-1], masks)

    def loss(self, features, data_samples, train_cfg):
        size = data_samples[0].gt_sem_seg.shape
        scores = self.predict(features, [dict(img_shape=size)] * len(data_samples), None)
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        return dict(loss_mask=[F.nll_loss(scores.log().contiguous(), labels, ignore_index=255)], acc_seg=scores.mean())


SMALL = {
    'K-Net': knet,
    'PIDNet': pidnet,
    'DDRNet': ddrnet,
    'STDC': stdc,
    'DPT': dpt,
    'EncNet': encnet,
    'PointRend': pointrend,
    'timm': timm,
    'DANet': lambda: of(None, head('DAHead', pam_channels=4)),
    'mask classifier': lambda: of(None, dict(type='QueryHead', num_classes=builders.NUM_CLASSES)),
    'OCRNet': builders.cascade,
    'class weights': lambda: builders.segmentor(loss_decode=WEIGHTED),
    'one channel': lambda: builders.segmentor(num_classes=2, out_channels=1, threshold=0.3, loss_decode=SIGMOID),
}

# MMSegmentation's own networks: what its configs share, and where that is not whole, a config.
BASES = """
ann_r50-d8 apcnet_r50-d8 bisenetv1_r18-d32 bisenetv2 ccnet_r50-d8 cgnet danet_r50-d8 deeplabv3_r50-d8
deeplabv3_unet_s5-d16 deeplabv3plus_r50-d8 dmnet_r50-d8 dnl_r50-d8 dpt_vit-b16 emanet_r50-d8 encnet_r50-d8 erfnet_fcn
fast_scnn fastfcn_r50-d32_jpu_psp fcn_hr18 fpn_r50 gcnet_r50-d8 icnet_r50-d8 isanet_r50-d8 lraspp_m-v3-d8
nonlocal_r50-d8 ocrnet_hr18 pointrend_r50 psanet_r50-d8 pspnet_r50-d8 segformer_mit-b0 segmenter_vit-b16_mask setr_mla
setr_naive setr_pup stdc twins_pcpvt-s_fpn upernet_r50 upernet_swin
"""
CONFIGS = """
beit/beit-base_upernet_8xb2-160k_ade20k-640x640
convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512
ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024
knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512
mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512
mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024
pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes
poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512
san/san-vit-b16_coco-stuff164k-640x640
segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512
vit/vit_deit-s16_upernet_8xb2-160k_ade20k-512x512
"""
STOCK = [*(f'_base_/models/{name}' for name in BASES.split()), *CONFIGS.split()]
# Of these a compiled operator of mmcv is asked for by name.
COMPILED = {'ccnet': 'CrissCrossAttention', 'psanet': 'PSAMask', 'san': 'point_sample'}
