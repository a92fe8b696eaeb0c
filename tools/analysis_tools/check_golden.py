"""Compares the project's parts with golden data of the published programs.

    python tools/analysis_tools/check_golden.py step.npz ...
    python tools/analysis_tools/check_golden.py network.npz --weights CONVERTED.pth --config CONFIG [--cfg-options ...]

A file holds inputs (``in_*``) and what the published program makes of them (``out_*``). A step file has what the
networks gave for a batch: all that follows is compared, gradients included, with the preset derprop_published.py of
configs/_base_/methods, or, for files of its siblings' programs, corrmatch.py, unimatch.py and unimatch_v2.py. A network
file has an image: the network is compared, with weights that tools/model_converters/published2mmseg.py converted. The
exit status is 0 only if every output of every file agrees.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_derprop.models import DerPropHead, Embedding, Prediction, SemiSegmentor, Step, StrongView, Threshold, View
from mmseg_derprop.models.pseudo_labels import RegionPropagation
from mmseg_derprop.ops import box_masks, cross_entropy_map, masked_mean, mix, propagate_regions, similarity_rows
from mmseg_derprop.ops.affinity import affinity_factors
from mmseg_derprop.utils.checkpoints import read_checkpoint, state_dict_of
from mmseg_derprop.utils.config import load_config

METHODS = Path(__file__).resolve().parents[2] / 'configs/_base_/methods'
TOLERANCE = 1e-4  # of an entry's largest magnitude
ZERO = 5e-8  # an entry below it is zero but for rounding
AMBIGUOUS, AMBIGUOUS_SHARE = 1e-5, 0.002  # distance of a region's pixel from its threshold; share of such pixels
TIE = 1e-7  # affinities that differ by less are equal but for rounding
DIVIDES_BY_ZERO = {'affinity_x', 'loss_consistency', 'loss_norm', 'loss_norm_u_s1', 'loss'}  # if published so


class Comparison:
    """Compares outputs with those of a file and prints a line for each."""

    def __init__(self, expected: dict[str, Tensor]) -> None:
        self.expected = expected
        self.seen: set[str] = set()
        self.passed = True

    def close(self, name: str, found: Tensor, slack: Tensor | float = 0.0, undefined: bool = False, label: str = ''):
        """Floats; ``slack`` is allowed besides, and where ``undefined`` the published value need not be finite."""
        want, found = self.want(name, found).double(), found.detach().double()
        if undefined and not want.isfinite().all():
            return self.report(name, 'published value is not finite', bool(found.isfinite().all()))
        error, largest = (found - want).abs(), want.abs().max().item()
        limit = TOLERANCE * largest if largest > ZERO else ZERO
        exact, ok = bool((error <= limit).all()), bool((error - slack <= limit).all())
        relative = f'relative {error.max().item() / largest:.1e}' if largest > ZERO else 'zero throughout'
        self.report(name + label, f'{error.max():.1e}  {relative}' + (', by rounding' if ok and not exact else ''), ok)

    def same(self, name: str, found: Tensor, excused: Tensor | None = None, share: float = 1.0, label: str = ''):
        """Labels and masks; where ``excused`` is true, up to a share of the entry may differ."""
        want = self.want(name, found)
        differ = found.long() != want.long()
        wrong = differ if excused is None else differ & ~excused
        count, ambiguous = int(differ.sum()), int(differ.sum() - wrong.sum())
        text = f'{count} of {want.numel()} differ' + (f', {ambiguous} of them ambiguous' if ambiguous else '')
        self.report(name + label, text, not wrong.any() and ambiguous <= share * want.numel())

    def want(self, name: str, found: Tensor) -> Tensor:
        """The file's output, of the shape of the one found."""
        self.seen.add(name)
        want = self.expected[name]
        if found.shape != want.shape:
            raise SystemExit(f'{name} has shape {tuple(want.shape)} in the file, but is {tuple(found.shape)} here.')
        return want

    def report(self, name: str, text: str, ok: bool) -> None:
        self.passed &= ok
        print(f'  {name:<38} {text:<44} {"ok" if ok else "FAIL"}')


def ambiguous_pixels(head: DerPropHead, embedding: Embedding, size: tuple[int, int], rows: Tensor) -> Tensor:
    """(N, R, H, W) bool: pixels so near the middle of their map's range that rounding decides on them."""
    near = []
    for maps in similarity_rows(embedding.q, embedding.k, rows, head.max_order).unflatten(2, embedding.grid):
        maps = F.interpolate(maps[None].double(), size, mode='bilinear', align_corners=True)[0]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        near.append(((maps - low) / (high - low) - 0.5).abs() <= AMBIGUOUS)
    return torch.stack(near)


def affinity_matrix(embedding: Embedding, order: int) -> Tensor:
    """(N, L, L), the affinity of an order; the project's losses never form it."""
    q, k, scale = list(affinity_factors(embedding.q, embedding.k, order))[order]
    return q.mT @ k * scale


def label_affinity_matrix(labels: Tensor, grid: tuple[int, int]) -> tuple[Tensor, bool]:
    """(N, L, L) by the rule of interpolated_label_affinity_loss, and whether the published scale is finite."""
    ids = F.interpolate(labels.unsqueeze(1).float(), grid, mode='bilinear', align_corners=True).flatten(2)
    ids = ids.masked_fill(ids == 255, 22).long()
    largest = int(ids.max())
    return (ids == ids.mT) * ((largest - 1) ** -0.5 if largest > 1 else 0.0), largest > 1


def tie_slack(strong: Embedding, weak: Embedding, weight: float, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """What pairs of equal affinities can change in gradients: the absolute value has a kink there, and its sign is
    that of a rounding error."""
    slack = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for order in range(min(2, strong.q.shape[1] - 1)):  # of a single channel the softmax is constant
        affinity = affinity_matrix(strong, order)
        for pair in ((affinity - affinity_matrix(weak, order)).abs() < TIE).nonzero().tolist():
            gradients = torch.autograd.grad(affinity[tuple(pair)], list(leaves.values()), retain_graph=True)
            for name, gradient in zip(leaves, gradients, strict=True):
                slack[name] += weight / affinity.numel() * gradient.abs()  # mean of 2 orders, from -1 to 1
    return slack


def build_step_model(inputs: dict[str, Tensor], preset: str) -> SemiSegmentor:
    """A preset around a tiny segmentor, with the head, threshold and alpha of a step file."""
    backbone = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4, num_stages=1)
    backbone.update(strides=(1,), dilations=(1,), out_indices=(0,))
    decode_head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=0, concat_input=False, align_corners=True)
    loss = dict(type='CrossEntropyLoss', avg_non_ignore=True)
    decode_head.update(num_classes=inputs['logits_x'].shape[1], loss_decode=loss)
    segmentor = dict(type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor'))
    segmentor.update(backbone=backbone, decode_head=decode_head)
    method = load_config(str(METHODS / f'{preset}.py')).method
    if 'thresh_init' in inputs:
        start = float(inputs['thresh_init'])
        method.propagation_head.channels = inputs['conv1_w'].shape[1]
        method.pseudo_labels.threshold.momentum = float(inputs['thresh_momentum'])
    else:
        start = float(inputs['conf_thresh'])
        method.pseudo_labels.threshold.value = min(start, 1.0)
    model = MODELS.build(dict(segmentor=segmentor, **method)).train()
    model.pseudo_labeler.threshold.value.fill_(start)  # above 1, as no option may be, nothing is confident
    model.pseudo_labeler.threshold.begin_step()
    model.pseudo_labeler.alpha = float(inputs.get('alpha', torch.tensor(0.0)))
    if model.propagation_head is not None:
        for name, layer in dict(conv1=model.propagation_head.conv_q, conv2=model.propagation_head.conv_k).items():
            layer.load_state_dict(dict(weight=inputs[f'{name}_w'], bias=inputs[f'{name}_b']))
    return model


def divides_by_no_pixels(step: Step) -> bool:
    """Whether all pixels of a map are ignored, over whose number a program may divide; here a mean of none is 0."""
    maps = (step.labels == 255, step.target.own.ignored, *(view.target.mixed.ignored for view in step.strong))
    return any(bool(ignored.all()) for ignored in maps)


def as_samples(labels: Tensor) -> list[SegDataSample]:
    """Data samples of labels (N, H, W)."""
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels.long()]


def check_step(inputs: dict[str, Tensor], table: Comparison) -> None:
    """Everything after DerProp's networks, from the entries of a step file."""
    model, expected = build_step_model(inputs, 'derprop_published'), table.expected
    head, labeler, align_corners = model.propagation_head, model.pseudo_labeler, model.align_corners
    names = ('logits_x', 'logits_u_w', 'logits_u_w_fp', 'logits_u_s', 'feat_x', 'feat_u_w', 'feat_u_s')
    leaves = {name: inputs[name].requires_grad_() for name in names}
    leaves.update(conv1_w=head.conv_q.weight, conv1_b=head.conv_q.bias)
    leaves.update(conv2_w=head.conv_k.weight, conv2_b=head.conv_k.bias)
    x, u_w, fp, u_s, feat_x, feat_u_w, feat_u_s, *_ = leaves.values()
    samples, inside = as_samples(inputs['labels_x']), inputs['cutmix_box'] == 1

    # The step, as SemiSegmentor.loss takes it. The labelled half of the perturbed logits has no loss.
    embedding = head.embed(torch.cat([feat_x, feat_u_w]))
    views = View(torch.cat([x, u_w]), torch.cat([torch.zeros_like(x), fp]), embedding, head, align_corners)
    labeled, weak = views[: len(x)], views[len(x) :]
    strong = View(u_s, None, head.embed(feat_u_s), head, align_corners)
    own = labeler.predict(weak.logits, inputs['ignore_u'] == 255, weak)
    partner = Prediction.of(inputs['logits_mix_teacher'], inputs['ignore_mix'] == 255)
    rows = inputs['region_rows_w'].long()
    regions = labeler.regions.propose(embedding, views.size, head.max_order, rows)
    ambiguous = ambiguous_pixels(head, embedding, views.size, rows)
    end_to_end = labeler(own, partner, inside, regions[len(x) :])
    # The same batch again, ambiguous pixels as in the file.
    target = labeler(own, partner, inside, regions.where(~ambiguous, expected['regions_w'])[len(x) :], update=False)
    strong_view = StrongView(strong, target, inside, u_s, None)
    step = Step(
        model.student,
        samples,
        inputs['labels_x'].long(),
        255,
        labeled,
        (),
        (labeled.logits,),
        weak,
        target,
        (strong_view,),
    )
    losses = {name: loss.loss_weight * loss(step) for name, loss in model.active_losses.items()}
    ties = {name: leaves[name] for name in ('feat_u_s', 'conv1_w', 'conv1_b', 'conv2_w', 'conv2_b')}
    slack = tie_slack(strong.embedding, weak.embedding, model.losses['affinity_u'].loss_weight, ties)
    total = model.parse_losses(losses)[0]
    total.backward()

    # Labels, masks and the threshold. What regions do to labels is also computed from the file's own regions.
    table.same('regions_w', regions, ambiguous, AMBIGUOUS_SHARE)
    table.same('labels_before_regions', target.mixed.labels)
    table.same('confident_before_regions', target.confident)
    before = expected['labels_before_regions'].long(), expected['confident_before_regions'].bool()
    cleared = expected['regions_w'][len(x) :] & ~(inside | target.mixed.ignored)[:, None]
    labels, accepted = propagate_regions(*before, cleared, expected['threshold_after'], head.num_classes)
    table.same('labels_after_regions', labels)
    table.same('confident_after_regions', accepted)
    excused = ambiguous[len(x) :].any(1)
    table.same('labels_after_regions', end_to_end.labels, excused, label=' (end to end)')
    table.same('confident_after_regions', end_to_end.accepted, excused, label=' (end to end)')
    compare_threshold(inputs, table, labeler.threshold, 'threshold_after')

    # Maps, losses without their weights, and gradients.
    label_affinity, finite_scale = label_affinity_matrix(inputs['labels_x'].long(), embedding.grid)
    terms = dict(x='seg', x_corr='seg_prop', consistency='affinity_x', consistency_u_s1='affinity_u', u_kl='kl')
    terms.update(u_s1='soft', u_w_fp='fp', u_corr_s1='prop_s', u_corr_w='prop_w', norm='smooth', norm_u_s1='smooth_s')
    found = {
        'pixel_propagated_w': torch.cat([labeled.propagated, weak.propagated]),
        'pixel_propagated_s': strong.propagated,
        'similarity_w': affinity_matrix(embedding, 0),
        'similarity_d1_w': affinity_matrix(embedding, 1),
        'affinity_x': label_affinity,
        'loss': total,
        **{f'loss_{name}': losses[key] / model.losses[key].loss_weight for name, key in terms.items()},
        **{f'grad_{name}': torch.zeros_like(t) if t.grad is None else t.grad for name, t in leaves.items()},
    }
    undefined = DIVIDES_BY_ZERO if head.num_classes == 2 or not finite_scale else set()
    undefined = set(found) if divides_by_no_pixels(step) else undefined
    for name in expected:
        if name in found:
            table.close(name, found[name], slack.get(name.removeprefix('grad_'), 0.0), name in undefined)


def compare_threshold(inputs: dict[str, Tensor], table: Comparison, threshold: Threshold, name: str) -> None:
    """A threshold moves little in a step, so its target is compared, to the rounding of the threshold."""
    share, start = 1 - threshold.momentum or 1.0, threshold.momentum * float(inputs['thresh_init'])
    table.expected[name] = (table.expected[name].double() - start) / share
    rounding = 2 * float(np.spacing(threshold.value.numpy())) / share
    table.close(name, (threshold.value.double() - start) / share, rounding)


def check_sibling(inputs: dict[str, Tensor], table: Comparison) -> None:
    """Everything after the networks of CorrMatch, UniMatch or UniMatch V2, whose file names it by its entries."""
    preset = 'unimatch_v2' if 'logits_teacher' in inputs else 'corrmatch' if 'feat_x' in inputs else 'unimatch'
    model = build_step_model(inputs, preset)
    head, labeler = model.propagation_head, model.pseudo_labeler
    names = [name for name in inputs if name.startswith(('logits_x', 'logits_u', 'feat_', 'conv'))]
    leaves = {name: inputs[name].requires_grad_() for name in names}
    if head is not None:
        leaves.update(conv1_w=head.conv_q.weight, conv1_b=head.conv_q.bias)
        leaves.update(conv2_w=head.conv_k.weight, conv2_b=head.conv_k.bias)

    def view(name: str, perturbed: str = '', feature: str = '') -> View:
        embedding = head.embed(leaves[feature]) if feature in leaves else None
        return View(leaves[name], leaves.get(perturbed), embedding, head, align_corners=True)

    labeled = view('logits_x', feature='feat_x')
    weak = view('logits_u_w', 'logits_u_w_fp', 'feat_u_w') if 'logits_u_w' in leaves else None
    ignored = inputs['ignore_u'] == 255
    own = labeler.predict(inputs['logits_teacher' if weak is None else 'logits_u_w'], ignored)
    index = model.cutmix.partner_of(len(ignored), ignored.device)
    partner = labeler.predict(inputs['logits_eval'], ignored)[index] if 'logits_eval' in inputs else own[index]
    regions = usable = ambiguous = None
    if labeler.regions is not None:
        e, rows = weak.embedding, inputs['rows_w'].long()
        regions = labeler.regions.propose(e, weak.size, head.max_order, rows)
        ambiguous = ambiguous_pixels(head, e, weak.size, rows)
        usable = regions.where(~ambiguous, table.expected['regions'].bool())  # these are without box and ignored pixels
    strong = []
    for number in range(1, 1 + model.views.num_strong):
        box = box_masks(inputs[f'box{number}'].long(), ignored.shape[-2:])
        images = inputs[f'img_u_s{number}']
        suffix = '' if model.views.num_strong == 1 else str(number)
        target = labeler(own, partner, box, usable, update=number == 1)
        images = mix(images, images[index], box)
        strong.append(StrongView(view(f'logits_u_s{suffix}', feature='feat_u_s'), target, box, images, index))
    samples, labels = as_samples(inputs['labels_x']), inputs['labels_x'].long()
    target = strong[0].target
    step = Step(model.student, samples, labels, 255, labeled, (), (labeled.logits,), weak, target, tuple(strong))
    losses = {name: loss.loss_weight * loss(step) for name, loss in model.active_losses.items()}
    total = model.parse_losses(losses)[0]
    total.backward()

    found = dict(loss=total, labels_before=target.mixed.labels, labels=target.labels, confident=target.confident)
    found |= dict(accepted=target.accepted, ignore=target.mixed.ignored * 255)
    for number, one in enumerate(strong, 1):
        mixed = one.target.mixed
        loss = masked_mean(cross_entropy_map(one.view.logits, one.target.labels), one.target.accepted, mixed.ignored)
        found |= {f'labels{number}': one.target.labels, f'conf{number}': mixed.confidence, f'loss_s{number}': loss}
        found |= {f'ignore{number}': mixed.ignored * 255, f'img_s{number}': one.images}
    slack: dict[str, Tensor] = {}
    if regions is not None:
        clear = ~(strong[0].box | target.mixed.ignored)[:, None]
        table.same('regions', regions & clear, ambiguous, AMBIGUOUS_SHARE)
        found |= dict(corr_out_s=strong[0].view.propagated, corr_out_w=weak.propagated)
        # The softmax does not see k's bias, so its gradient is a sum of the weights' rounding errors.
        slack['grad_conv2_b'] = TOLERANCE * leaves['conv2_w'].grad.abs().max()
        compare_threshold(inputs, table, labeler.threshold, 'threshold')
    unweighted = {name: loss / model.losses[name].loss_weight for name, loss in losses.items()}
    names = dict(seg='x', seg_prop='x_corr', kl='kl', fp='fp', prop_s='corr_s', prop_w='corr_w')
    found |= {f'loss_{names[key]}': loss for key, loss in unweighted.items() if key in names}
    if 'prop_s' in unweighted:
        found['loss_corr'] = (unweighted['prop_s'] + unweighted['prop_w']) / 2
    short = dict(u_w_fp='fp', u_s='s', u_s1='s1', u_s2='s2', feat_u_w='feat_w', feat_u_s='feat_s')
    for name, leaf in leaves.items():
        name = name.removeprefix('logits_')
        found[f'grad_{short.get(name, name)}'] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    undefined = divides_by_no_pixels(step)
    for name, want in table.expected.items():
        if name not in found or name in table.seen:
            continue
        if want.is_floating_point():
            table.close(name, found[name], slack.get(name, 0.0), undefined)
        else:
            table.same(name, found[name])


@torch.no_grad()
def check_network(inputs: dict[str, Tensor], table: Comparison, weights: str, config: str, options: dict) -> None:
    """A converted network in evaluation mode, from the entries of a network file."""
    model = MODELS.build(load_config(config, options).model)
    if not isinstance(model, SemiSegmentor) or model.propagation_head is None:
        raise SystemExit(f'The model of {config} is no SemiSegmentor with a propagation_head.')
    try:
        state = state_dict_of(read_checkpoint(weights))
    except (OSError, ValueError) as error:
        raise SystemExit(f'{weights}: {error}') from None
    no_weights = {name: value for name, value in model.state_dict().items() if name.startswith('pseudo_labeler.')}
    try:
        model.load_state_dict(no_weights | state)
    except RuntimeError as error:
        first = '\n'.join(line[:240] for line in str(error).splitlines()[:5])
        hint = 'Depth and num_classes must fit: --cfg-options model.segmentor.backbone.depth=50, for instance.'
        raise SystemExit(f'{config} does not fit {weights}:\n{first}\n{hint}') from None
    image, rows, head = inputs['image'], inputs['region_rows'].long(), model.eval().propagation_head
    head.normalize = 'source'  # whatever preset the config has
    view, features, _ = model.forward_view(image, embed=True)
    table.close('logits', view.logits)
    table.close('logits', model.logits_of(model.teacher, image), label=' (teacher)')
    table.close('pixel_propagated', view.propagated)
    table.close('feat', head.dropout(head.conv(features[head.in_index])))
    table.close('similarity_row0', affinity_matrix(view.embedding, 0)[:, 0])
    ambiguous = ambiguous_pixels(head, view.embedding, view.size, rows)
    regions = RegionPropagation(head.num_classes).propose(view.embedding, view.size, head.max_order, rows)
    table.same('regions', regions, ambiguous, AMBIGUOUS_SHARE)


def read(path: str, prefix: str) -> dict[str, Tensor]:
    """The entries of a file that have a prefix, without it; floats in single precision."""
    with np.load(path) as file:
        names = [key for key in file.files if key.startswith(prefix)]
        entries = {key.removeprefix(prefix): torch.from_numpy(np.array(file[key])) for key in names}
    return {name: e.float() if e.ndim and e.is_floating_point() else e for name, e in entries.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', help='golden data (.npz)')
    parser.add_argument('--weights', help='converted checkpoint, for a network file')
    parser.add_argument('--config', help='config of a SemiSegmentor that fits the weights, for a network file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    args = parser.parse_args()
    init_default_scope('mmseg')
    passed = True
    for path in args.files:
        inputs, table = read(path, 'in_'), Comparison(read(path, 'out_'))
        if 'image' in inputs and not (args.weights and args.config):
            parser.error(f'{path} holds the outputs of a network: give --weights CONVERTED.pth and --config CONFIG.')
        print(f'{path}:', flush=True)
        try:
            if 'image' in inputs:
                check_network(inputs, table, args.weights, args.config, args.cfg_options)
            elif 'logits_mix_teacher' in inputs:
                check_step(inputs, table)
            else:
                check_sibling(inputs, table)
        except KeyError as error:
            raise SystemExit(f'{path} lacks the entry {error}.') from error
        for name in table.expected.keys() - table.seen:
            table.report(name, 'unknown entry', False)
        passed &= table.passed
    print('All outputs agree.' if passed else 'Outputs differ: see the lines with FAIL.')
    raise SystemExit(not passed)


if __name__ == '__main__':
    main()
