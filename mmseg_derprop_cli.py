"""The command ``mmseg-derprop``: the programs of tools/, which an installed package carries.

It stands beside the package to answer ``--help`` at once, and to say in a sentence why an installation cannot be used.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent / 'mmseg_derprop/.mim/tools'
COMMANDS = {
    'train': ('train.py', 'train a config'),
    'test': ('test.py', 'evaluate a checkpoint'),
    'semi-config': ('semi_config.py', 'write the semi-supervised version of a config, to read and edit'),
    'check-data': ('check_data.py', 'read every image and label of a config, and list all problems'),
    'browse': ('analysis_tools/browse_dataset.py', 'draw the batches that a config trains on'),
    'predict': ('image_demo.py', 'draw the predictions of a checkpoint over images'),
    'pseudo-label': ('pseudo_label.py', 'write label maps of images, where a checkpoint is confident'),
    'label-quality': ('analysis_tools/label_quality.py', 'compare pseudo-labels with the true labels'),
    'export': ('model_converters/export_segmentor.py', 'write a plain MMSegmentation config and checkpoint'),
    'export-onnx': ('model_converters/export_onnx.py', 'write an ONNX file'),
    'study': ('study.py', 'train a matrix of methods, splits and seeds'),
    'report': ('analysis_tools/report.py', 'make a page of the results of a study'),
    'convert-masks': ('dataset_converters/convert_masks.py', 'turn masks of other formats into class ids'),
    'make-split': ('dataset_converters/make_split.py', 'draw which images of a data set are labelled'),
    'make-shapes': ('dataset_converters/make_shapes.py', 'draw the embedded data set'),
    'prepare-data': ('dataset_converters/prepare_data.py', 'make of archives all that the configs of a data set read'),
    'benchmark': ('analysis_tools/benchmark.py', 'time the parts of a training step'),
    'demo': ('demo.py', 'train and compare on the embedded data set, in minutes'),
}


def run(name: str, arguments: list[str]) -> None:
    """Runs a program of tools/ as ``python tools/... arguments`` would."""
    script = TOOLS / COMMANDS[name][0]
    spec = importlib.util.spec_from_file_location('__main__', script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None  # as of a script, so that a spawned process finds it by its path
    sys.modules['__main__'] = module
    sys.path[0] = str(script.parent)
    sys.argv = [f'mmseg-derprop {name}', *arguments]
    spec.loader.exec_module(module)


def main() -> None:
    name, *arguments = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        print('usage: mmseg-derprop COMMAND ...; COMMAND --help lists its options\n\ncommands:')
        print('\n'.join(f'  {name:<14} {text}' for name, (_, text) in COMMANDS.items()))
        return
    if name not in COMMANDS:
        raise SystemExit(f'mmseg-derprop has no command {name}. Choose one of {", ".join(COMMANDS)}.')
    try:
        import mmseg_derprop  # noqa: F401
    except ImportError as error:
        raise SystemExit(f'mmseg_derprop cannot be imported: {error}') from None
    run(name, arguments)


if __name__ == '__main__':
    main()
