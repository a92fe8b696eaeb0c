"""What each of two processes does for tests/models/test_distributed.py; a spawned process imports it by its name."""

import time
from itertools import combinations_with_replacement
from types import SimpleNamespace

import builders
import torch
import torch.distributed as dist
from builders import NUM_CLASSES
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

from mmseg_derprop.datasets import BrokenData, Problem, SemiSampler
from mmseg_derprop.engine import BrokenFilesHook, NonFiniteHook
from mmseg_derprop.engine.hooks.checkpoint_hook import cpu_group
from mmseg_derprop.models.segmentors import decode_heads

WORLD, STEPS = 2, 2
PER_PROCESS = 2
NOTHING_RANDOM = {'propagation_head.dropout_ratio': 0.0, 'views.perturb_ratio': 0.0}
MOVING = {'pseudo_labels.threshold.init': 0.5, 'pseudo_labels.threshold.momentum': 0.9}
ONE_STRONG = {'views.num_strong': 1, 'views.complementary_dropout': False}
PRESETS = {
    'paper': ('derprop_paper', NOTHING_RANDOM | MOVING | {'pseudo_labels.alpha': 0.3}),
    'published': ('derprop_published', NOTHING_RANDOM | MOVING | {'pseudo_labels.alpha': 0.3}),
    'own forwards': ('derprop', NOTHING_RANDOM | MOVING),
    'aligned': ('aligned_teacher', ONE_STRONG),
}
CASES = ('usual', 'no confident pixel', 'no valid pixel', 'nothing labelled', 'a class fewer')
STAGED = {'views.staged_backward': True}
PAIRS = list(combinations_with_replacement(CASES, 2))  # of the two processes


def make(preset, options):
    """A model with nothing random in what moves its threshold: normalisation frozen, no dropout."""
    network = builders.segmentor(loss_decode=dict(type='PixelCrossEntropyLoss'))
    model = builders.build(preset, network | dict(auxiliary_head=builders.fcn(2, 32)), options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def batches(step):
    """Both processes' images: they differ in how much of them is ignored, and boxes are empty.

    A partner is the next image of a process's batch, so one process with all images pairs them otherwise.
    """
    inputs, samples = builders.batch(2 * PER_PROCESS, 2 * PER_PROCESS, seed=step)
    samples['sup'][0].gt_sem_seg.data[:, 10:] = 255
    samples['sup'][3].gt_sem_seg.data[:] = 255
    for sample in samples['strong']:
        sample.set_metainfo(dict(cutmix_box=(0, 0, 0, 0)))
    return {branch: images.double() for branch, images in inputs.items()}, samples


def share_of(rank, batch):
    part = slice(rank * PER_PROCESS, (rank + 1) * PER_PROCESS)
    return tuple({branch: values[part] for branch, values in parts.items()} for parts in batch)


def train(model, wrapped, rank=None):
    """What shares collectives, by step, and the parameters in the end."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
    shared, finite = [], []
    labeler = model.pseudo_labeler
    for step in range(STEPS if rank is not None else 1):
        inputs, samples = batches(step) if rank is None else share_of(rank, batches(step))
        terms = wrapped(inputs, samples, mode='loss')
        wrapper.update_params(model.parse_losses(terms)[0])
        alignment = [] if labeler.alignment is None else [labeler.alignment.bias.clone()]
        shared.append([labeler.threshold.value.clone(), *alignment])
        finite.append(all(value.isfinite() for value in terms.values()))
    return dict(shared=shared, finite=finite, parameters={n: p.detach() for n, p in model.named_parameters()})


def wrap(model):
    return MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)


def odd_batch(case, seed):
    inputs, samples = builders.batch(seed=seed, size=(25, 32))
    if case == 'no valid pixel':
        for sample in [sample for branch in samples if branch != 'sup' for sample in samples[branch]]:
            sample.ignore_map.data[:] = True
    for sample in samples['sup']:
        labels = sample.gt_sem_seg.data
        if case == 'nothing labelled':
            labels[:] = 255
        if case == 'a class fewer':
            labels[labels == NUM_CLASSES - 1] = 0
    return inputs, samples


def walk_odd_batches(rank):
    """Steps in which the processes have any two cases; what each saw, and the collectives it took part in."""
    options = {'pseudo_labels.threshold.init': 0.9, 'pseudo_labels.alpha': 0.3} | STAGED
    model = builders.build(options=options)
    flat = [False]  # whether all classes are equally likely
    for network in (model.student, model.teacher):
        classifier = decode_heads(network)[-1].conv_seg
        classifier.register_forward_hook(lambda _, __, out: out * 0 if flat[0] else out)
    wrapped, seen, calls = wrap(model), [], []
    wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))
    reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: (
        calls.append((step, tuple(tensor.shape), str(args[:1]))) or reduce(tensor, *args, **kwargs)
    )
    for step, cases in enumerate(PAIRS):
        flat[0] = cases[rank] == 'no confident pixel'
        losses = wrapped(*odd_batch(cases[rank], seed=10 * rank + step), mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])
        finite = all(value.isfinite() for value in losses.values())
        seen.append((cases, finite, {name: float(value) for name, value in model.statistics.items()}))
    dist.all_reduce = reduce
    threshold = model.pseudo_labeler.threshold.value
    return dict(seen=seen, calls=calls, parameters=dict(model.named_parameters()), threshold=threshold)


def meet_a_bad(what, rank):
    """Two steps; in the second one, a loss, or a gradient, of process 1 is infinite. The error."""
    model = builders.build('derprop_paper', options=STAGED)
    first = next(model.student.parameters())
    first.register_hook(lambda grad: grad * float('inf') if bad and what == 'gradient' else grad)
    wrapped, hook, kl = wrap(model), NonFiniteHook(), model.losses['kl']
    wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3))
    runner = SimpleNamespace(model=wrapped, optim_wrapper=wrapper, iter=0)
    hook.before_train(runner)
    try:
        for runner.iter in range(2):
            bad = (rank, runner.iter) == (1, 1)
            kl.loss_weight = float('inf') if bad and what == 'loss' else kl.loss_weight
            inputs, samples = builders.batch(seed=10 * rank + runner.iter, size=(25, 32))
            for index, sample in enumerate(samples['sup'] + samples['weak']):
                sample.set_metainfo(dict(img_path=f'image_{rank}_{runner.iter}_{index}.jpg'))
            data = dict(inputs=inputs, data_samples={name: samples[name] for name in ('sup', 'weak')})
            hook.before_train_iter(runner, runner.iter, data)
            wrapper.update_params(model.parse_losses(wrapped(inputs, samples, mode='loss'))[0])
            hook.after_train_iter(runner, runner.iter, data)
    except FloatingPointError as raised:
        return str(raised)


def meet_broken_files(rank):
    """Four iterations; each process meets a file, both meet another, and process 1 meets one too many. The counts."""
    hook, hub = BrokenFilesHook(limit=3), MessageHub.get_instance('broken_files')
    loader = SimpleNamespace(dataset=SimpleNamespace(broken_unlabeled='skip'))
    runner = SimpleNamespace(train_dataloader=loader, message_hub=hub, logger=MMLogger('broken'), cfg={})
    hook.before_train(runner)
    met = ([f'{rank}.jpg'], [], ['both.jpg'], ['one_more.jpg'] if rank else [])
    counts, error = [], None
    for iteration, names in enumerate(met):
        samples = builders.batch(seed=iteration, size=(25, 32))[1]
        samples['weak'][1].set_metainfo(dict(replaced=[Problem(name, 'empty', 'is empty') for name in names]))
        try:
            hook.after_train_iter(runner, iteration, dict(data_samples=samples))
        except BrokenData as raised:
            error = str(raised)
        counts.append((sorted(hub.get_info('broken_files')), hub.get_info('replaced_images')))
    return dict(counts=counts, error=error)


def wait_in_vain(rank):
    """Seconds that process 0 waits, in the group that checkpoints use, for process 1, which is late; and the error."""
    group = cpu_group(SimpleNamespace(cfg=dict(env_cfg=dict(dist_cfg=dict(timeout=1)))))
    start = time.monotonic()
    try:
        if rank == 1:
            time.sleep(3)
        else:
            dist.all_reduce(torch.zeros(()), group=group)
    except RuntimeError as raised:
        return time.monotonic() - start, str(raised)


def sampler_shares():
    """Indices that this process takes in three epochs, by batch."""
    sampler = SemiSampler(SimpleNamespace(num_labeled=5, num_unlabeled=12), 2, 3)
    numbers = iter(sampler)
    return sampler.seed, [[next(numbers) for _ in range(5)] for _ in range(3 * sampler.iterations_per_epoch)]


def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=WORLD)
    found = {'sampler': sampler_shares()}
    for name, (preset, options) in PRESETS.items():
        model = make(preset, options | STAGED)  # the process to which they are compared runs one backward pass
        found[name] = train(model, wrap(model), rank)
    found['odd'] = walk_odd_batches(rank)
    for what in ('loss', 'gradient'):
        found['bad', what] = meet_a_bad(what, rank)
    found['broken files'] = meet_broken_files(rank)
    found['late'] = wait_in_vain(rank)
    torch.save(found, f'{out}.{rank}')
    dist.destroy_process_group()
