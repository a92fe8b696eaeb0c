"""Writes the embedded data set of textured shapes, in the layout of Pascal VOC."""

from __future__ import annotations

import argparse

from mmseg_derprop.datasets.synthetic import write_shapes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='data/shapes', help='folder to write into')
    parser.add_argument('--labeled', type=int, default=24, help='labelled training images')
    parser.add_argument('--unlabeled', type=int, default=400, help='unlabelled training images')
    parser.add_argument('--val', type=int, default=100, help='validation images')
    parser.add_argument('--size', type=int, default=96, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the whole data set')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    write_shapes(**vars(args))
    print(f'{args.out}: {args.labeled} labelled, {args.unlabeled} unlabelled and {args.val} validation images')


if __name__ == '__main__':
    main()
