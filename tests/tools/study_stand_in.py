"""Stands in for tools/train.py where a test is about processes: the same arguments and the same files, in no time.

What it does is in the environment: STAND_IN_SECONDS for each iteration, STAND_IN_FAILS, part of a work dir's name.
"""

import argparse
import json
import os
import re
import sys
import time
import zipfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument('config', type=Path)
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--resume', type=Path)
args = parser.parse_args()
begun = time.time()
(args.work_dir / 'pids').open('a').write(f'{os.getpid()}\n')
if os.environ.get('STAND_IN_FAILS', '-') in args.work_dir.name:
    print('the last words')
    sys.exit(7)
max_iters = int(re.search(r'max_iters=(\d+)', args.config.read_text())[1])
first = int(re.search(r'\d+', args.resume.name)[0]) if args.resume else 0
scalars = args.work_dir / f'{time.time_ns()}' / 'vis_data' / 'scalars.json'
scalars.parent.mkdir(parents=True)
for step in range(first + 1, max_iters + 1):
    time.sleep(float(os.environ.get('STAND_IN_SECONDS', 0)))
    print(step, flush=True)
    with zipfile.ZipFile(args.work_dir / f'iter_{step}.pth', 'w') as checkpoint:
        checkpoint.writestr('step', str(step))
    with scalars.open('a') as log:
        log.write(json.dumps({'loss': 1.0 / step, 'iter': step, 'step': step}) + '\n')
        log.write(json.dumps({'mIoU': 10.0 * step, 'time': 0.1, 'step': step}) + '\n')
(args.work_dir / 'span').write_text(f'{begun} {time.time()}')
