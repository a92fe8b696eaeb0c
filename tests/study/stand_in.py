"""Stands in for tools/train.py: the same arguments and the same files, in no time.

What it does is in the environment: STAND_IN_SECONDS for each iteration, STAND_IN_FAILS, part of a work dir's name.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument('config', type=Path)
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--resume', action='store_true')
args = parser.parse_args()
begun = time.time()
with (args.work_dir / 'pids').open('a') as file:
    file.write(f'{os.getpid()}\n')
if os.environ.get('STAND_IN_FAILS', '-') in args.work_dir.name:
    print('the last words')
    sys.exit(7)
config = args.config.read_text()
max_iters, seed = int(re.search(r'max_iters=(\d+)', config)[1]), int(re.search(r'seed=(\d+)', config)[1])
first = max((int(path.stem[5:]) for path in args.work_dir.glob('iter_*[0-9].pth')), default=0)
scalars = args.work_dir / f'{time.time_ns()}' / 'vis_data' / 'scalars.json'
scalars.parent.mkdir(parents=True)
networks = ('', 'teacher/', 'student/') if 'SemiSegmentor' in config else ('',)
for step in range(first + 1, max_iters + 1):
    time.sleep(float(os.environ.get('STAND_IN_SECONDS', 0)))
    print(step, flush=True)
    (args.work_dir / f'iter_{step}.pth').touch()
    scores = {f'{n}{m}': 10.0 * step + seed for n in networks for m in ('mIoU', 'IoU.disc')}
    with scalars.open('a') as log:
        log.write(json.dumps({'loss': 1.0 / step, 'iter': step, 'step': step}) + '\n')
        log.write(json.dumps({**scores, 'time': 0.1, 'step': step}) + '\n')
(args.work_dir / 'span').write_text(f'{begun} {time.time()}')
