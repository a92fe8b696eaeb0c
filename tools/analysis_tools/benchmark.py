"""Times the parts of the method, beside a direct rendering of each.

    python tools/analysis_tools/benchmark.py ops --grid 101 --batch 1 --classes 19
    python tools/analysis_tools/benchmark.py regions --size 321 --batch 4
    python tools/analysis_tools/benchmark.py step configs/{derprop,fixmatch}/r101_voc_1-4.py --batch 2 \\
        --settings 'one pass' staged --cfg-options model.segmentor.backbone.depth=50
    python tools/analysis_tools/benchmark.py data --size 321 --workers 2

``ops`` (similarity, propagation, regions, affinities, smoothness; forward and backward) and ``regions`` (the labels
that regions take) stand beside tests/reference.py; ``limit_seconds`` is the least arithmetic of ``ops`` alone. ``step``
measures whole training steps of configs in several settings, and the step of the segmentor alone. ``data`` measures
whole loaders on drawn images of 500x500, beside the pipeline of the field's programs in Pillow and torchvision. Each
measurement has a process of its own. All print a table; ``--json`` writes it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from mmseg_derprop import ops
from mmseg_derprop.datasets import RandomCutMixBox, semi_collate, write_shapes
from mmseg_derprop.models import SemiSegmentor
from mmseg_derprop.models.decoding import image_channels
from mmseg_derprop.ops.blockwise import row_blocks
from mmseg_derprop.utils.config import load_config

if TYPE_CHECKING:  # mmseg_derprop, which silences mmseg's warnings, comes first
    from mmseg.models import BaseSegmentor, EncoderDecoder

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))
try:
    import reference
except ImportError:  # an installed package has no tests
    reference = None
ORDER = 1


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


def memory(device: torch.device, key: str) -> int:
    """Bytes in use (``VmRSS``) or the most that were (``VmHWM``); on a GPU those of torch's tensors."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated() if key == 'VmRSS' else torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status').read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key))


def measure(work: Callable[[], object], device: torch.device, repeats: int) -> dict:
    """Peak of a first run above what was in use before it, and the seconds of further ones."""
    before = memory(device, 'VmRSS')
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')  # forgets the highest mark so far
    work()
    peak = memory(device, 'VmHWM') - before
    seconds = []
    for _ in range(repeats):
        start = clock(device)
        work()
        seconds.append(clock(device) - start)
    return dict(seconds=seconds, peak_added_bytes=max(peak, 0))


def measure_side(args: argparse.Namespace, side: str) -> dict:
    """What :func:`measure` finds for ``'ours'``, the ``'reference'`` or the ``'limit'``."""
    device = torch.device(args.device)
    make = limit_work if side == 'limit' else dict(ops=ops_work, regions=regions_work)[args.what]
    return measure(make(args, side, device), device, args.repeats)


def in_a_process(function: Callable[..., dict], *args: object) -> dict:
    """What a function returns, in a process of its own, because a process keeps its highest memory."""
    context = multiprocessing.get_context('fork')
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=lambda: send.send(function(*args)))
    process.start()
    send.close()  # so that a process which failed ends the wait
    found = receive.recv()
    process.join()
    return found


def side_by_side(args: argparse.Namespace) -> dict:
    """Ours, the reference's and the limit, each in a process of its own: medians, all repeats, peaks."""
    sides = {'': 'ours', **({} if args.no_reference else {'reference_': 'reference'})}
    if args.what == 'ops':
        sides['limit_'] = 'limit'
    result = {}
    for prefix, side in sides.items():
        found = in_a_process(measure_side, args, side)
        result[f'{prefix}seconds'] = statistics.median(found['seconds'])
        result[f'{prefix}seconds_all'] = found['seconds']
        result[f'{prefix}peak_added_bytes'] = found['peak_added_bytes']
    if not args.no_reference:
        result['times_faster'] = result['reference_seconds'] / result['seconds']
    if 'limit_seconds' in result:
        result['share_of_limit'] = result['limit_seconds'] / result['seconds']
    return result


# --- What is measured ------------------------------------------------------------------------------------------------


def ops_work(args: argparse.Namespace, side: str, device: torch.device) -> Callable[[], object]:
    """Everything between the networks' outputs and the losses that has to do with pairs of positions."""
    batch, classes, grid = args.batch, args.classes, (args.grid, args.grid)
    length, size = args.grid**2, (8 * (args.grid - 1) + 1,) * 2  # output stride 8
    torch.manual_seed(0)
    x_and_w, s = ([torch.randn(n * batch, classes, length, device=device) for _ in range(3)] for n in (2, 1))
    q, k, logits = x_and_w
    q_s, k_s, logits_s = s
    labels = F.interpolate(torch.randint(classes, (batch, 1, 9, 9)).float(), size)[:, 0].long().to(device)
    rows = torch.randint(length, (args.regions,), device=device)
    inside = (torch.arange(length, device=device) // args.grid < args.grid // 3).expand(batch, -1)

    def ours() -> Tensor:
        propagated = ops.propagate(q, k, logits, ORDER, 'source_mean').square().mean()
        propagated_s = ops.propagate(q_s, k_s, logits_s, ORDER, 'source_mean').square().mean()
        maps = ops.similarity_rows(q[batch:], k[batch:], rows, ORDER)
        ops.region_masks(maps.unflatten(2, grid), size)
        affinity_x = ops.label_affinity_loss(q[:batch], k[:batch], labels, grid, max_order=ORDER)
        affinity_u = ops.affinity_consistency_loss(q_s, k_s, q[batch:], k[batch:], ORDER, inside)
        smooth = ops.smoothness_loss(q, k) + ops.smoothness_loss(q_s, k_s)
        return propagated + propagated_s + affinity_x + affinity_u + smooth

    def direct() -> Tensor:
        p = reference.spread(reference.similarity(q, k, ORDER))
        propagated = (logits @ (p / p.sum(1, keepdim=True))).square().mean()
        weights_s = reference.spread(reference.similarity(q_s, k_s, ORDER), 'source_mean')
        propagated_s = (logits_s @ weights_s).square().mean()
        with torch.no_grad():
            reference.region_masks(p[batch:, rows].unflatten(2, grid), size)
        of_x, of_w = zip(*[(a[:batch], a[batch:]) for a in reference.affinities(q, k, ORDER)])
        ids = reference.nearest_labels(labels, grid)
        same, valid = ids[:, :, None] == ids[:, None], ids != reference.IGNORE
        wanted = [same / (classes - order) ** 0.5 for order in range(ORDER + 1)]
        affinity_x = reference.mean_over_orders(of_x, wanted, valid[:, :, None] & valid[:, None])
        of_s, kept = reference.affinities(q_s, k_s, ORDER), reference.kept_pairs(inside, True)
        affinity_u = reference.mean_over_orders(of_s, [a.detach() for a in of_w], kept)
        smooth = reference.smoothness_loss(q, k) + reference.smoothness_loss(q_s, k_s)
        return propagated + propagated_s + affinity_x + affinity_u + smooth

    def work() -> list[Tensor]:
        leaves = [t.requires_grad_() for t in (q, k, q_s, k_s)]
        return list(torch.autograd.grad((ours if side == 'ours' else direct)(), leaves))

    return work


def limit_work(args: argparse.Namespace, side: str, device: torch.device) -> Callable[[], object]:
    """The arithmetic that ``ops`` cannot do without, in the same blocks: products of all pairs, and exponentials.

    Propagation of an image: the scores twice, what they weigh, four products for the gradients, and an exponential
    wherever scores are formed. Consistency of an image: four affinities (two orders, two views), formed twice, and four
    gradients.
    """
    products, exponentials = args.batch * (3 * 7 + 12), args.batch * 3 * 3
    q, k = torch.randn(2, 1, args.classes, args.grid**2, device=device)

    def work() -> None:
        for rows in row_blocks(q):
            scores, some = q[..., rows].mT @ k, q[..., rows].mT.contiguous()
            for _ in range(products - 1):
                torch.bmm(some, k, out=scores)
            result = torch.empty_like(scores)
            for _ in range(exponentials):
                torch.exp(scores, out=result)

    return work


def regions_work(args: argparse.Namespace, side: str, device: torch.device) -> Callable[[], object]:
    """Regions along objects: maps as a trained head gives them, most pixels confident."""
    generator = torch.Generator().manual_seed(0)
    batch, size, grid, objects = args.batch, args.size, (args.size - 1) // 8 + 1, 12

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    # Objects are the cells of random points; near a border, and in patches, the prediction is unsure or wrong.
    points, axis = random(batch, objects, 2, 1, 1), torch.linspace(0, 1, size)
    squares = (axis[:, None] - points[:, :, 0]).square() + (axis - points[:, :, 1]).square()
    nearest, cell = squares.topk(2, dim=1, largest=False)
    cell = cell[:, 0]
    class_of = torch.randint(args.classes, (batch, objects), generator=generator)
    labels = class_of.gather(1, cell.flatten(1)).view_as(cell)
    wrong = F.interpolate(random(batch, 1, grid, grid), (size, size), mode='bilinear')[:, 0] > 0.8
    labels = labels.where(~wrong, int(class_of[0, 0]))
    confident = nearest[:, 1] - nearest[:, 0] > 0.004
    embedding = 3 * F.one_hot(class_of, args.classes).float() + 0.08 * random(batch, objects, args.classes)
    coarse = F.interpolate(cell[:, None].float(), (grid, grid))[:, 0].long().flatten(1)
    vectors = embedding.gather(1, coarse.unsqueeze(-1).expand(-1, -1, args.classes)).mT
    vectors = vectors + 0.16 * (random(*vectors.shape) - 0.5)
    rows = torch.randint(grid**2, (args.regions,), generator=generator)
    maps = ops.similarity_rows(vectors, vectors, rows, ORDER).unflatten(2, (grid, grid))
    inputs = [t.to(device) for t in (labels, confident, ops.region_masks(maps, (size, size)))]
    tau = torch.tensor(args.tau, device=device)
    function = (ops if side == 'ours' else reference).propagate_regions
    return lambda: function(*inputs, tau, args.classes)


# What a step's time and memory depend on, as options of the model; bfloat16 is the precision of the run.
SETTINGS = {
    'one pass': {'views.staged_backward': False},
    'staged': {},
    'staged, bfloat16': {'channels_last': True},
    'staged, checkpointing': {'views.activation_checkpointing': True},
}


def steps(args: argparse.Namespace) -> dict:
    """Whole training steps of each config in each setting, and of its segmentor alone on as many labelled images."""
    table = {'supervised': in_a_process(measure_step, args, args.configs[0], None)}
    for config in args.configs:
        for setting in args.settings:
            name = f'{Path(config).parent.name}/{Path(config).stem}, {setting}'
            try:
                table[name] = in_a_process(measure_step, args, config, setting)
            except EOFError:  # its own process has said why, such as a backbone without checkpointing
                print(f'{name}: not measured', file=sys.stderr)
    base = table['supervised']['seconds']
    print(f'{"":<48} seconds (least, most)   GiB   x supervised')
    for name, row in table.items():
        least, most = min(row['seconds_all']), max(row['seconds_all'])
        print(
            f'{name:<48} {row["seconds"]:7.3f} ({least:.3f}, {most:.3f}) {row["peak_bytes"] / 2**30:6.2f} '
            f'{row["seconds"] / base:6.2f}'
        )
    return dict(steps=table)


def measure_step(args: argparse.Namespace, path: str, setting: str | None) -> dict:
    """Median and all seconds of steps, and the peak of memory, network and optimiser included."""
    device = torch.device(args.device)
    before = memory(device, 'VmRSS')
    model = build_model(args, path, setting, device)
    inputs, samples = random_batch(model, args, device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    low = setting is not None and 'bfloat16' in setting

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            losses = model.loss(inputs, samples)
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(model, SemiSegmentor):
            model.follow_student('step', 1)

    step()  # the first allocates
    seconds = []
    for _ in range(args.repeats):
        start = clock(device)
        step()
        seconds.append(clock(device) - start)
    found = dict(seconds=statistics.median(seconds), seconds_all=seconds)
    found['peak_bytes'] = memory(device, 'VmHWM') - before
    if device.type == 'cuda':
        found['reserved_bytes'] = torch.cuda.max_memory_reserved()
    return found


def build_model(
    args: argparse.Namespace, path: str, setting: str | None, device: torch.device
) -> SemiSegmentor | EncoderDecoder:
    """The config's model with random weights, after its warm-up and in the middle of training; or its segmentor."""
    init_default_scope('mmseg')
    config = load_config(path, args.cfg_options)
    config.model.segmentor.pretrained = None
    config.model.segmentor.backbone.init_cfg = None
    torch.manual_seed(0)
    if setting is None:
        return MODELS.build(config.model.segmentor).to(device).train()
    config.merge_from_dict({f'model.{key}': value for key, value in SETTINGS[setting].items()})
    model = MODELS.build(config.model).to(device).train()
    if model.propagation_head is not None:
        model.begin_iteration(model.propagation_head.warmup)
        model.pseudo_labeler.begin_epoch(1, 2)
    return model


def random_batch(model: BaseSegmentor, args: argparse.Namespace, device: torch.device) -> tuple:
    """Inputs and data samples of all branches; of a plain segmentor labelled images alone."""
    size, batch, channels = (args.size, args.size), args.batch, image_channels(model)
    truth = F.interpolate(torch.randint(model.num_classes, (batch, 1, 9, 9)).float(), size)[:, 0].long().to(device)
    ignored = PixelData(data=torch.zeros(1, *size, dtype=torch.bool, device=device))
    meta = dict(cutmix_box=(10, 20, args.size // 2, args.size // 2))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=t[None]), ignore_map=ignored, metainfo=meta) for t in truth]
    branches = model.branches if isinstance(model, SemiSegmentor) else ['sup']
    inputs = {branch: torch.randn(batch, channels, *size, device=device) for branch in branches}
    return (inputs, dict.fromkeys(inputs, samples)) if isinstance(model, SemiSegmentor) else (inputs['sup'], samples)


class FieldImages(Dataset):
    """The images of a list as the field's programs make them: with labels, or as weak and strong view with a box."""

    def __init__(self, root: Path, split: str, size: int) -> None:
        self.root, self.labeled, self.size = root, split == 'labeled', size
        self.names = (root / 'ImageSets/Segmentation' / f'{split}.txt').read_text().split()
        jitter = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)
        self.colours = transforms.Compose([transforms.RandomApply([jitter], 0.8), transforms.RandomGrayscale(0.2)])
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self.normalize = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
        self.box = RandomCutMixBox()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple:
        image = Image.open(self.root / 'JPEGImages' / f'{self.names[index]}.jpg').convert('RGB')
        label = Image.new('L', image.size)
        if self.labeled:
            label = Image.open(self.root / 'SegmentationClass' / f'{self.names[index]}.png')
        long = max(image.size)
        ratio = random.randint(long // 2, 2 * long) / long
        sides = [int(side * ratio + 0.5) for side in image.size]
        image, label = image.resize(sides, Image.Resampling.BILINEAR), label.resize(sides, Image.Resampling.NEAREST)
        pad = (0, 0, *(max(self.size - side, 0) for side in sides))
        image, label = ImageOps.expand(image, pad, fill=0), ImageOps.expand(label, pad, fill=255)
        x, y = (random.randint(0, side - self.size) for side in image.size)
        image, label = (picture.crop((x, y, x + self.size, y + self.size)) for picture in (image, label))
        if random.random() < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        ids = torch.from_numpy(np.array(label)).long()
        if self.labeled:
            return self.normalize(image), ids
        strong = self.colours(image)
        if random.random() < 0.5:
            strong = strong.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
        mask = torch.zeros(self.size, self.size)
        if random.random() < 0.5:
            x1, y1, x2, y2 = self.box.draw_box(self.size, self.size)
            mask[y1:y2, x1:x2] = 1
        return self.normalize(image), self.normalize(strong), ids, mask


def loaders(args: argparse.Namespace) -> dict:
    """Images a second of loaders of labelled and unlabelled images, ours and the field's."""
    table: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as root:
        write_shapes(root, labeled=16, unlabeled=16, val=1, size=500)
        for split in ('labeled', 'unlabeled'):
            for side in ('ours', 'pillow'):
                found = in_a_process(measure_loader, args, Path(root), split, side)
                table[f'{split}, {side}'] = dict(images_per_second=statistics.median(found['all']), **found)
    print(f'{"":<24} images a second (least, most)')
    for name, row in table.items():
        print(f'{name:<24} {row["images_per_second"]:8.1f} ({min(row["all"]):.1f}, {max(row["all"]):.1f})')
    return dict(loaders=table)


def measure_loader(args: argparse.Namespace, root: Path, split: str, side: str) -> dict:
    """Images a second in each of several passes of a loader whose workers have started."""
    init_default_scope('mmseg')
    torch.set_num_threads(1)
    collate = None
    if side == 'pillow':
        dataset = FieldImages(root, split, args.size)
        indices = range(len(dataset))
    else:
        config = load_config(str(ROOT / 'configs/_base_/datasets/voc12_semi.py')).train_dataloader.dataset
        for name in ('labeled', 'unlabeled'):
            config[name].update(data_root=str(root), ann_file=f'ImageSets/Segmentation/{name}.txt')
            for step in config[name].pipeline:
                step.update({key: (args.size, args.size) for key in ('size', 'crop_size') if key in step})
        dataset, collate = DATASETS.build(config), semi_collate
        dataset.full_init()
        indices = range(dataset.num_labeled) if split == 'labeled' else range(dataset.num_labeled, len(dataset))
    loader = DataLoader(
        Subset(dataset, [*indices] * 16),
        batch_size=args.batch,
        shuffle=True,
        num_workers=args.workers,
        collate_fn=collate,
        persistent_workers=args.workers > 0,
    )
    rates = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        images = sum(args.batch for _ in loader)
        rates.append(images / (time.perf_counter() - start))
    return dict(all=rates[1:])


# --- Command line ----------------------------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest='what', required=True)
    for what, repeats in dict(ops=3, regions=9, step=5, data=5).items():
        sub = parsers.add_parser(what)
        if what != 'data':
            sub.add_argument('--device', default='cpu')
        sub.add_argument('--json', help='file to write the figures to')
        sub.add_argument('--repeats', type=int, default=repeats, help='timed runs, after one that is not')
        sub.add_argument('--batch', type=int, default=4, help='labelled, weak and strong images, each')
        if what in ('ops', 'regions'):
            sub.add_argument('--classes', type=int, default=19 if what == 'ops' else 21)
            sub.add_argument('--regions', type=int, default=128, help='regions per image')
            sub.add_argument('--no-reference', action='store_true', help='it needs memory of all pairs several times')
        if what == 'ops':
            sub.add_argument('--grid', type=int, default=41, help='positions along a side')
        else:
            sub.add_argument('--size', type=int, default=321, help='side of the crop in pixels')
        if what == 'regions':
            sub.add_argument('--tau', type=float, default=0.85)
        if what == 'data':
            sub.add_argument('--workers', type=int, default=2, help='processes of the loader')
        if what == 'step':
            sub.add_argument('configs', nargs='+', help='semi-supervised configs')
            sub.add_argument('--settings', nargs='+', choices=SETTINGS, default=[*SETTINGS])
            sub.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    for name in ('batch', 'regions', 'grid', 'size', 'repeats', 'classes'):
        if (value := getattr(args, name, None)) is not None and value < (2 if name in ('classes', 'grid') else 1):
            parser.error(f'--{name} {value}: give at least {2 if name in ("classes", "grid") else 1}')
    if args.what in ('ops', 'regions') and reference is None and not args.no_reference:
        parser.error('The direct rendering is tests/reference.py of a checkout, which is not here. Add --no-reference.')
    return args


def main() -> None:
    args = parse_args()
    result = dict(step=steps, data=loaders).get(args.what, side_by_side)(args)
    settings = {key: value for key, value in vars(args).items() if key != 'json'}
    machine = platform.processor() or platform.machine()
    if torch.device(getattr(args, 'device', 'cpu')).type == 'cuda':
        machine = torch.cuda.get_device_name()
    result |= dict(settings=settings, torch=torch.__version__, threads=torch.get_num_threads(), machine=machine)
    result['cores'] = os.cpu_count()
    for key, value in result.items() if args.what in ('ops', 'regions') else ():
        print(f'{key:<32} {value:.4g}' if isinstance(value, float) else f'{key:<32} {value}')
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
