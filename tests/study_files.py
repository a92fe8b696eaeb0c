"""Result files as tools/study.py leaves them, with scores drawn from a seed."""

import json

import numpy as np

CLASSES = ('background', 'disc', 'ring')
ITERATIONS = (100, 200, 300)
PLACE = dict(
    versions=dict(python='3.11', torch='2.5.0', git=None), machine=dict(cpu='a CPU', cores=2, threads=1, gpu=None)
)


def result(method='derprop', split='1-8', seed=0, options=None, networks=('teacher', 'student'), **changes):
    """One run's result; changes replace what it holds, None drops it."""
    label = '+'.join([method, *(options or {})])
    name = f'{label}_{split}_seed{seed}'
    rng = np.random.default_rng(list(name.encode()))
    scores = []
    for iteration in ITERATIONS:
        classes = {network: dict(zip(CLASSES, rng.uniform(20, 90, 3).round(2).tolist())) for network in networks}
        means = {
            f'{network}/mIoU' if network else 'mIoU': round(float(np.mean([*of.values()])), 2)
            for network, of in classes.items()
        }
        scores.append(dict(iteration=iteration, classes=classes, aAcc=90.0, **means))
    shares = ('confident', 'accepted', 'region_changes', 'accuracy_confident', 'accuracy_accepted')
    scalars = {'loss': [[i, 1 / i] for i in range(10, 301, 10)]}
    if networks != ('',):
        scalars |= {key: [[i, float(rng.uniform(0.5, 1))] for i in range(10, 301, 10)] for key in shares}
        scalars |= {key: [[i, i / 300] for i in range(10, 301, 10)] for key in ('tau', 'alpha')}
    whole = dict(
        name=name,
        study='small',
        stage='further',
        method=method,
        split=split,
        seed=seed,
        options=options or {},
        config_digest=f'{seed:012x}',
        command=f'python tools/train.py runs/{name}/config.py',
        seconds=60.0 * (1 + seed),
        iterations=ITERATIONS[-1],
        scores=scores,
        scalars=scalars,
        work_dir=f'runs/{name}',
        checkpoint=f'runs/{name}/iter_{ITERATIONS[-1]}.pth',
        **PLACE,
    )
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def supervised(**changes):
    """A run with labelled images alone."""
    return result('supervised', networks=('',), **changes)


def write(folder, *results):
    """Writes results below ``folder / 'results'``; returns the folder."""
    (folder / 'results').mkdir(parents=True, exist_ok=True)
    for each in results:
        (folder / 'results' / f'{each["name"]}.json').write_text(json.dumps(each))
    return folder
