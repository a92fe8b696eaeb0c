"""Turns masks in colours, in grey levels, of COCO or of LabelMe into label files of class ids.

    python tools/dataset_converters/convert_masks.py masks --classes background=0 object=255 --out labels
    python tools/dataset_converters/convert_masks.py masks --classes @palette.txt --tolerance 8 --out labels

MASKS is a folder of images (palette images count by their colours), a COCO file, or a folder of LabelMe's JSON files.
--classes names each class in the order of the ids, with its grey level or colour; @FILE has one a line; the id of
"ignore" is 255. Other colours are listed with their pixels, and nothing is written, unless --unknown gives their id.
JSON files need pycocotools or labelme; their classes are the categories, or LabelMe's labels, behind the background.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine import fileio
from PIL import Image
from rich.progress import track

from mmseg_derprop.apis.image_files import result_path
from mmseg_derprop.datasets.unlabeled import IMAGE_SUFFIXES

IGNORED, UNKNOWN = 255, -1
Masks = Iterator[tuple[Path, np.ndarray]]  # path below MASKS, ids (H, W)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Turn masks into label files of class ids', fromfile_prefix_chars='@')
    parser.add_argument('masks', type=Path, help='folder of masks or of LabelMe files, or a COCO file')
    parser.add_argument('--out', type=Path, required=True, help='another folder, for the label files')
    parser.add_argument('--classes', nargs='+', type=named_colour, default=[], help='NAME=GREY or NAME=R,G,B of each')
    parser.add_argument('--tolerance', type=int, default=0, help='greatest difference of a channel (default: 0)')
    parser.add_argument('--unknown', type=int, choices=range(256), metavar='ID', help='of colours that are no class')
    args = parser.parse_args()
    if args.out.resolve() == args.masks.resolve() or not args.masks.exists():
        parser.error(f'MASKS must exist, and --out be another folder, but are {args.masks} and {args.out}')
    return args


def named_colour(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and RGB of a class, () where none is given."""
    name, _, values = text.partition('=')
    colour = tuple(int(value) for value in values.split(',')) if values else ()
    if len(colour) not in (0, 1, 3) or not all(0 <= value <= 255 for value in colour):
        raise ValueError
    return name.strip(), colour * 3 if len(colour) == 1 else colour


def image_masks(args: argparse.Namespace, names: list[str], unknown: Counter) -> Masks:
    """Masks in colours or grey levels; ``unknown`` counts the pixels of other colours."""
    names += [name for name, colour in args.classes if colour]
    if not names or len(names) < len(args.classes):
        raise SystemExit('--classes must have the grey level or colour of each class: NAME=128, NAME=255,0,0')
    ids = np.array([IGNORED if name == 'ignore' else [n for n in names if n != 'ignore'].index(name) for name in names])
    paths = sorted(path for path in args.masks.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in track(paths, 'converting'):
        image = Image.open(path)
        if image.mode[0] in 'IF':
            raise SystemExit(f'{path} must have 8 bits a channel, but has more ({image.mode}). Save it so.')
        rgb = np.asarray(image.convert('RGB'), np.int64)
        keys, inverse, counts = np.unique(rgb @ (65536, 256, 1), return_inverse=True, return_counts=True)
        colours = np.stack([keys >> 16, keys >> 8 & 255, keys & 255], 1)
        far = np.abs(colours[:, None] - np.array([colour for _, colour in args.classes])).max(2)
        found = np.where(far.min(1) <= args.tolerance, ids[far.argmin(1)], UNKNOWN)
        unknown.update({tuple(c): n for c, n, i in zip(colours.tolist(), counts.tolist(), found) if i == UNKNOWN})
        yield path.relative_to(args.masks), found[inverse].reshape(rgb.shape[:2])


def coco_masks(args: argparse.Namespace, names: list[str], unknown: Counter) -> Masks:
    """Masks of a COCO file, small objects over large ones."""
    from pycocotools.coco import COCO

    coco = COCO(str(args.masks))
    ids = {category: number for number, category in enumerate(sorted(coco.getCatIds()), 1)}
    names += ['background', *(coco.cats[category]['name'] for category in ids)]
    for image in track(coco.imgs.values(), 'converting'):
        labels = np.zeros((image['height'], image['width']), np.int64)
        for annotation in sorted(coco.imgToAnns[image['id']], key=lambda one: -one['area']):
            labels[coco.annToMask(annotation) > 0] = ids[annotation['category_id']]
        yield Path(image['file_name']), labels


def labelme_masks(args: argparse.Namespace, names: list[str], unknown: Counter) -> Masks:
    """Masks of LabelMe's files, later shapes over earlier ones; ``unknown`` counts the shapes of other labels."""
    from labelme import LabelFile, utils

    files = {path: json.loads(path.read_text('utf-8')) for path in sorted(args.masks.rglob('*.json'))}
    used = {shape['label'] for content in files.values() for shape in content['shapes']}
    names += ['background', *(name for name in dict(args.classes) or sorted(used) if name != 'background')]
    ids = {label: names.index(label) if label in names else UNKNOWN for label in used}
    for path, content in track(files.items(), 'converting'):
        unknown.update(shape['label'] for shape in content['shapes'] if shape['label'] not in names)
        size = (content['imageHeight'], content['imageWidth'])
        yield path.relative_to(args.masks), utils.shapes_to_label(size, LabelFile(str(path)).shapes, ids)[0]


def main() -> None:
    args, names, unknown, pixels, files = parse_args(), [], Counter(), Counter(), {}
    read = coco_masks if args.masks.is_file() else labelme_masks if any(args.masks.rglob('*.json')) else image_masks
    try:
        for name, labels in read(args, names, unknown):
            pixels.update(dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)))))
            labels = np.where(labels == UNKNOWN, args.unknown or 0, labels).astype(np.uint8)
            Image.fromarray(labels).save(buffer := io.BytesIO(), 'PNG')
            files[result_path(args.out, str(name)).with_suffix('.png')] = buffer.getvalue()
    except ImportError as error:
        raise SystemExit(f'{args.masks} needs the package {error.name}: pip install {error.name}') from None
    for number, name in enumerate(name for name in names if name != 'ignore'):
        print(f'{number:>3} {name}: {pixels[number] / max(pixels.total(), 1):.2%} of the pixels')
    print(f'ignored (255): {pixels[IGNORED]} pixels, unknown: {pixels[UNKNOWN]}')
    print('', *(f'   {what}: {count}\n' for what, count in unknown.most_common(20)))
    if not files or (pixels[UNKNOWN] and args.unknown is None):
        raise SystemExit(f'{len(files)} masks; none is written. Name what is unknown in --classes, or give --unknown.')
    for path, content in files.items():
        fileio.put(content, path)
    print(f'{len(files)} label files in {args.out}')


if __name__ == '__main__':
    main()
