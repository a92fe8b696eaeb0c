"""Makes one self-contained page of a study: tables, paired differences, curves, pictures of predictions.

    python tools/analysis_tools/report.py work_dirs/NAME_OF_THE_STUDY --out report.html

A table like docs/results/camvid_study.csv may take the place of the folder; then there are no pictures. Values are
means ± standard deviations over seeds, differences to the baseline are paired by seed, mean ± standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.study.plan import StudyError
from mmseg_derprop.study.report import build_page


def main() -> None:
    parser = argparse.ArgumentParser(description='Report on a study')
    parser.add_argument('study', help="the study's folder, or a table like its results.csv")
    parser.add_argument('--out', type=Path, required=True, help='the HTML file to write')
    parser.add_argument('--baseline', default='supervised', help='method with which the others are compared')
    parser.add_argument('--images', type=int, default=3, help='validation images that are drawn (default: 3; 0: none)')
    args = parser.parse_args()
    try:
        page = build_page(args.study, args.baseline, args.images)
    except StudyError as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding='utf-8')
    print(args.out)


if __name__ == '__main__':
    main()
