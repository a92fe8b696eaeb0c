"""The method written out directly, as the paper states it: the twin that the tests compare with.

Every tensor of all pairs of positions is formed once, and nothing else is computed twice, so the
same functions are the baseline of the benchmarks. Nothing of :mod:`mmseg_derprop` is used here.

Shapes: class logits (N, K, H, W); head outputs q and k (N, K, L) on an (h, w) grid, L = h * w.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, the corners of the one grid on the corners of the other."""
    return F.interpolate(x, size, mode='bilinear', align_corners=True)


def nearest_labels(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, H, W) to (N, L): the label nearest to each position, corners on corners."""
    (height, width), (h, w) = labels.shape[1:], grid
    rows = [round(i * (height - 1) / (h - 1)) if h > 1 else 0 for i in range(h)]
    columns = [round(j * (width - 1) / (w - 1)) if w > 1 else 0 for j in range(w)]
    return labels[:, rows][:, :, columns].flatten(1)


# --- Similarity and propagation (section 3 of the paper) -----------------------------------------


def derivative(x: Tensor, order: int) -> Tensor:
    for _ in range(order):
        x = x[:, 1:] - x[:, :-1]
    return x


def similarity(q: Tensor, k: Tensor, max_order: int = 1) -> Tensor:
    """S (N, L, L): inner products of the vectors and of their derivatives, each by its channels."""
    classes = q.shape[1]
    total = q.new_zeros(())
    for order in range(max_order + 1):
        product = derivative(q, order).transpose(1, 2) @ derivative(k, order)
        total = total + product / (classes - order) ** 0.5
    return total


def spread(s: Tensor, normalize: str = 'source') -> Tensor:
    """Weights (N, L, L) with which source i reaches target j."""
    if normalize == 'target':
        return s.softmax(1)
    p = s.softmax(2)
    return p / p.sum(1, keepdim=True) if normalize == 'source_mean' else p


def propagate(q: Tensor, k: Tensor, values: Tensor, max_order: int = 1, normalize: str = 'source') -> Tensor:
    return values @ spread(similarity(q, k, max_order), normalize)


def region_masks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the rows of P, as maps (N, R, h, w), exceed the middle of their range at image size."""
    maps = resize(maps.float(), size)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low) > 0.5  # a constant map gives 0 / 0, which exceeds nothing


# --- Affinities and smoothness -------------------------------------------------------------------


def affinity(q: Tensor, k: Tensor, order: int) -> Tensor:
    q, k = derivative(q, order).softmax(1), derivative(k, order).softmax(1)
    return q.transpose(1, 2) @ k / q.shape[1] ** 0.5


def affinities(q: Tensor, k: Tensor, max_order: int = 1) -> list[Tensor]:
    """A_n (N, L, L) for n = 0 .. max_order."""
    return [affinity(q, k, order) for order in range(max_order + 1)]


def kept_pairs(inside: Tensor, keep_inside: bool) -> Tensor:
    """(N, L, L) from (N, L): both outside a box, or (``keep_inside``) on the same side of it."""
    one, other = inside[:, :, None], inside[:, None, :]
    return one == other if keep_inside else ~one & ~other


def mean_over_orders(found: list[Tensor], wanted: list[Tensor], kept: Tensor | None = None) -> Tensor:
    """Mean L1 distance, over the kept pairs and the orders; 0 if no pair is kept."""
    distances = []
    for a, b in zip(found, wanted, strict=True):
        distance = (a - b).abs()
        if kept is None:
            distances.append(distance.mean())
        else:
            distances.append((distance * kept).sum() / kept.sum().clamp(min=1))
    return torch.stack(distances).mean()


def affinity_consistency_loss(
    q: Tensor,
    k: Tensor,
    target_q: Tensor,
    target_k: Tensor,
    max_order: int = 1,
    inside: Tensor | None = None,
    keep_inside: bool = True,
) -> Tensor:
    kept = None if inside is None else kept_pairs(inside, keep_inside)
    target = affinities(target_q.detach(), target_k.detach(), max_order)
    return mean_over_orders(affinities(q, k, max_order), target, kept)


def label_affinity_loss(
    q: Tensor, k: Tensor, labels: Tensor, grid: tuple[int, int], ignore_index: int = IGNORE, max_order: int = 1
) -> Tensor:
    """Mended: nearest labels, ignored positions in no pair, the scale of each order's affinity."""
    ids = nearest_labels(labels, grid)
    valid = ids != ignore_index
    same = ids[:, :, None] == ids[:, None, :]
    found = affinities(q, k, max_order)
    wanted = [same.to(q) / (q.shape[1] - order) ** 0.5 for order in range(max_order + 1)]
    return mean_over_orders(found, wanted, valid[:, :, None] & valid[:, None, :])


def interpolated_label_affinity(labels: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Published: ids resized as numbers. (N, L, L), or None where the scale is not finite."""
    ids = resize(labels[:, None].float(), grid)[:, 0].flatten(1)
    ids = torch.where(ids == IGNORE, 22.0, ids).trunc()
    largest = ids.max()
    if largest <= 1:
        return None
    return (ids[:, :, None] == ids[:, None, :]) / (largest - 1).to(dtype).sqrt()


def interpolated_label_affinity_loss(
    q: Tensor, k: Tensor, labels: Tensor, grid: tuple[int, int], max_order: int = 1
) -> Tensor:
    target = interpolated_label_affinity(labels, grid, q.dtype)
    if target is None:
        return 0 * (q.sum() + k.sum())
    return mean_over_orders(affinities(q, k, max_order), [target] * (max_order + 1))


def smoothness_loss(q: Tensor, k: Tensor) -> Tensor:
    """Mended: the mean absolute second derivative."""
    if q.shape[1] <= 2:
        return 0 * (q.sum() + k.sum())
    return (derivative(q, 2).abs().mean() + derivative(k, 2).abs().mean()) / 2


def published_smoothness_loss(q: Tensor, k: Tensor) -> Tensor:
    """Published: a softmax over positions comes first, so that the term is 1 / L."""
    parts = [derivative(x, 2).softmax(2).abs().mean() for x in (q, k)]
    return (parts[0] + parts[1]) / 2


# --- Pseudo-labels (section 5) -------------------------------------------------------------------


def class_maxima(confidence: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    maxima = confidence.new_zeros(num_classes)
    for c in range(num_classes):
        chosen = confidence[(labels == c) & valid]
        if chosen.numel():
            maxima[c] = chosen.max()
    return maxima


def move_threshold(tau: Tensor, maxima: Tensor, momentum: float) -> Tensor:
    present = maxima[maxima > 0]
    return momentum * tau + (1 - momentum) * present.mean() if present.numel() else tau


def propagate_regions(
    labels: Tensor, confident: Tensor, regions: Tensor, tau: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    labels, accepted = labels.clone(), confident.clone()
    for image in range(len(labels)):
        for region in regions[image]:
            sample = region & confident[image]
            size = sample.sum()
            if size == 0 or size / region.sum() < tau:
                continue
            counts = torch.bincount(labels[image][sample], minlength=num_classes)
            winner = counts.argmax()
            if counts[winner] / size > tau:
                labels[image][region] = winner
                accepted[image] |= region
    return labels, accepted


def mix(one: Tensor, other: Tensor, box: Tensor) -> Tensor:
    return torch.where(box if one.dim() == 3 else box[:, None], other, one)


# --- Losses (section 6) --------------------------------------------------------------------------


def mean_over_valid(loss: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """Sum over the chosen pixels by the number of valid ones; 0 if there is none."""
    return (loss * chosen).sum() / valid.sum().clamp(min=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the pixels that are not ignored."""
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')
    valid = labels != IGNORE
    return mean_over_valid(loss, valid, valid)


def ohem_cross_entropy(logits: Tensor, labels: Tensor, min_kept: int = 100000, threshold: float = 0.7) -> Tensor:
    """Mean over the hardest pixels: at least ``min_kept`` of them, and all below the threshold."""
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')
    loss = loss[labels != IGNORE]
    if loss.numel() < min_kept or loss.numel() == 0:
        return loss.sum() / max(loss.numel(), 1)
    probability = (-loss.detach()).exp()
    bound = probability.sort().values[min_kept - 1].clamp(min=threshold)
    return loss[probability <= bound].mean()


def masked_cross_entropy(logits: Tensor, labels: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    return mean_over_valid(F.cross_entropy(logits, labels, reduction='none'), chosen, valid)


def masked_soft_cross_entropy(logits: Tensor, target: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with the softmax of ``target``."""
    loss = -(target.softmax(1) * logits.log_softmax(1)).sum(1)
    return mean_over_valid(loss, chosen, valid)


def masked_divergence(logits: Tensor, target: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """KL(softmax target to softmax logits)."""
    loss = target.softmax(1) * (target.log_softmax(1) - logits.log_softmax(1))
    return mean_over_valid(loss.sum(1), chosen, valid)


# --- The published step --------------------------------------------------------------------------


def published_step(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything after the networks, as published, with cross-entropy as the labelled loss.

    Args:
        inputs (dict[str, Tensor]): The ``in_*`` entries of the golden data without their prefix.

    Returns:
        dict[str, Tensor]: The ``out_*`` entries, gradients excepted. ``loss`` has a gradient with
        respect to the logits, the features and the weights of the head.
    """
    grid, size = inputs['feat_x'].shape[2:], inputs['logits_x'].shape[2:]
    batch, classes = inputs['logits_x'].shape[:2]
    alpha = float(inputs['alpha'])

    def head(feature: Tensor) -> tuple[Tensor, Tensor]:
        q = F.conv2d(feature, inputs['conv1_w'], inputs['conv1_b'])
        k = F.conv2d(feature, inputs['conv2_w'], inputs['conv2_b'])
        return q.flatten(2), k.flatten(2)

    def pixel_propagated(p: Tensor, logits: Tensor) -> Tensor:
        return resize((resize(logits.detach(), grid).flatten(2) @ p).unflatten(2, grid), size)

    # The head, on the labelled and the weakly augmented images together and on the strong views.
    q, k = head(torch.cat([inputs['feat_x'], inputs['feat_u_w']]))
    q_s, k_s = head(inputs['feat_u_s'])
    p = spread(similarity(q, k))
    propagated = pixel_propagated(p, torch.cat([inputs['logits_x'], inputs['logits_u_w']]))
    propagated_x, propagated_w = propagated.split(batch)
    propagated_s = pixel_propagated(spread(similarity(q_s, k_s)), inputs['logits_u_s'])
    regions = region_masks(p.detach()[:, inputs['region_rows_w'].long()].unflatten(2, grid), size)

    # Pseudo-labels.
    box = inputs['cutmix_box'] == 1
    valid_u = inputs['ignore_u'] != IGNORE
    valid = mix(inputs['ignore_u'], inputs['ignore_mix'], box) != IGNORE
    mixture = ((1 - alpha) * inputs['logits_u_w'] + alpha * propagated_w).detach()
    confidence_w, labels_w = mixture.softmax(1).max(1)
    partner_confidence, partner_labels = inputs['logits_mix_teacher'].detach().softmax(1).max(1)
    confidence = mix(confidence_w, partner_confidence, box)
    labels = mix(labels_w, partner_labels, box)
    tau = move_threshold(
        inputs['thresh_init'].float(),
        class_maxima(confidence_w, labels_w, valid, classes),
        float(inputs['thresh_momentum']),
    )
    confident_w = (confidence_w >= tau) & valid_u
    confident = (confidence >= tau) & valid
    clear = regions[batch:] & (valid & ~box)[:, None]
    new_labels, accepted = propagate_regions(labels, confident, clear, tau, classes)

    # Losses.
    labels_x = inputs['labels_x'].long()
    logits_s = inputs['logits_u_s']
    a0, a1 = affinities(q, k)
    target = interpolated_label_affinity(labels_x, grid, q.dtype)
    affinity_x = q.new_zeros(())
    if target is not None:
        affinity_x = mean_over_orders([a0[:batch].detach(), a1[:batch].detach()], [target, target])
    losses = {
        'loss_x': cross_entropy(inputs['logits_x'], labels_x),
        'loss_x_corr': cross_entropy(propagated_x, labels_x),
        'loss_u_kl': masked_divergence(logits_s, mixture, confident, valid),
        'loss_u_s1': masked_soft_cross_entropy(logits_s, mixture, accepted, valid),
        'loss_u_w_fp': masked_cross_entropy(inputs['logits_u_w_fp'], labels_w, confident_w, valid_u),
        'loss_u_corr_s1': masked_cross_entropy(propagated_s, new_labels, accepted, valid),
        'loss_u_corr_w': masked_cross_entropy(propagated_w, labels_w, confident_w, valid_u),
        'loss_consistency': affinity_x,
        'loss_consistency_u_s1': mean_over_orders(affinities(q_s, k_s), [a0[batch:].detach(), a1[batch:].detach()]),
        'loss_norm': published_smoothness_loss(q, k),
        'loss_norm_u_s1': published_smoothness_loss(q_s, k_s),
    }
    weights = {
        'loss_x': 0.5,
        'loss_x_corr': 0.5,
        'loss_u_kl': 0.25,
        'loss_u_s1': 0.25,
        'loss_u_w_fp': 0.25,
        'loss_u_corr_s1': 0.125,
        'loss_u_corr_w': 0.125,
        'loss_consistency': 0.5,
        'loss_consistency_u_s1': 0.5,
        'loss_norm': 0.25,
        'loss_norm_u_s1': 0.25,
    }
    return {
        'pixel_propagated_w': propagated,
        'pixel_propagated_s': propagated_s,
        'regions_w': regions,
        'similarity_w': a0,
        'similarity_d1_w': a1,
        'threshold_after': tau,
        'labels_before_regions': labels,
        'labels_after_regions': new_labels,
        'confident_before_regions': confident,
        'confident_after_regions': accepted,
        'affinity_x': torch.zeros_like(a0[:batch]) if target is None else target,
        **losses,
        'loss': sum(weight * losses[name] for name, weight in weights.items()) / 2,
    }


def corrmatch_step(inputs: dict[str, Tensor], box: Tensor) -> dict[str, Tensor]:
    """CorrMatch's step, as published_step; ``box`` (N, H, W) bool are the CutMix boxes, filled by the next image.

    q and k are (N, K, h, w). Labels and masks are of the cut-mixed views.
    """
    grid, size, classes = inputs['q_x'].shape[2:], inputs['logits_x'].shape[2:], inputs['logits_x'].shape[1]
    x, w, s = (inputs[f'logits_{name}'] for name in ('x', 'u_w', 'u_s'))

    def propagation(name: str, logits: Tensor) -> tuple[Tensor, Tensor]:
        p = spread(similarity(*(inputs[f'{part}_{name}'].flatten(2) for part in 'qk'), max_order=0))
        return p, resize((resize(logits.detach(), grid).flatten(2) @ p).unflatten(2, grid), size)

    (_, x_corr), (p, w_corr), (_, s_corr) = propagation('x', x), propagation('u_w', w), propagation('u_s', s)
    (own_confidence, own_labels), partner = (
        z.detach().softmax(1).max(1) for z in (w, inputs['logits_eval'].roll(-1, 0))
    )
    valid_u = inputs['ignore_u'] != IGNORE
    valid = mix(inputs['ignore_u'], inputs['ignore_u'].roll(-1, 0), box) != IGNORE
    confidence, labels = mix(own_confidence, partner[0], box), mix(own_labels, partner[1], box)
    maxima = class_maxima(own_confidence, own_labels, valid, classes)
    tau = move_threshold(inputs['thresh_init'], maxima, float(inputs['thresh_momentum']))
    confident, confident_w = (confidence >= tau) & valid, (own_confidence >= tau) & valid_u
    regions = region_masks(p.detach()[:, inputs['rows_w'].long()].unflatten(2, grid), size) & (valid & ~box)[:, None]
    new_labels, accepted = propagate_regions(labels, confident, regions, tau, classes)
    parts = {
        'loss_x': (0.5, cross_entropy(x, inputs['labels_x'].long())),
        'loss_x_corr': (0.5, cross_entropy(x_corr, inputs['labels_x'].long())),
        'loss_s1': (0.25, masked_cross_entropy(s, new_labels, accepted, valid)),
        'loss_kl': (0.25, masked_divergence(s, w.detach(), confident, valid)),  # not cut-mixed
        'loss_fp': (0.25, masked_cross_entropy(inputs['logits_u_w_fp'], own_labels, confident_w, valid_u)),
        'loss_corr_s': (0.125, masked_cross_entropy(s_corr, new_labels, accepted, valid)),
        'loss_corr_w': (0.125, masked_cross_entropy(w_corr, own_labels, confident_w, valid_u)),
    }
    found = dict(labels_before=labels, labels=new_labels, confident=confident, accepted=accepted, regions=regions)
    found |= {name: loss for name, (_, loss) in parts.items()}
    return found | dict(threshold=tau, loss=sum(weight * loss for weight, loss in parts.values()) / 2)
