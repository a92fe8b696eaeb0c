#!/usr/bin/env bash
# Installs a wheel into an empty environment, and runs its commands in an empty folder.
#   tests/try_wheel.sh PYTHON WHEEL
set -euo pipefail
wheel=$(realpath "$2")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "$wheel[onedl]"
"$folder/venv/bin/python" -m pip check
cd "$folder"
export PATH="$folder/venv/bin:$PATH" PYTHONPATH= OMP_NUM_THREADS=1

try() {
  echo "mmseg-derprop $*"
  mmseg-derprop "$@" >log 2>&1 || { cat log >&2; exit 1; }
}

lists=data/shapes/ImageSets/Segmentation
images="data/shapes/JPEGImages/val*"
try make-shapes --labeled 8 --unlabeled 8 --val 4
try make-split --list $lists/unlabeled.txt --num 4 --out splits
try semi-config --base mmseg_derprop::supervised/tiny_shapes.py --labeled $lists/labeled.txt --unlabeled $lists/unlabeled.txt --out semi.py
try check-data semi.py
try browse semi.py --number 1
try train semi.py --cfg-options train_cfg.max_iters=2 train_cfg.val_interval=2
trained=(semi.py work_dirs/semi/iter_2.pth)
try test "${trained[@]}" --predict-on both
try predict "$images" "${trained[@]}"
try pseudo-label "$images" "${trained[@]}" --out-dir labels
try label-quality "${trained[@]}" --data val
try benchmark ops --no-reference --grid 9 --batch 1
try export work_dirs/semi/iter_2.pth
try study mmseg_derprop::studies/camvid_cpu.yaml --dry-run
parts=mmseg_derprop::_base_
cat >tiny.yaml <<END
_base_: mmseg_derprop::studies/family.yaml
bases: ['$parts/models/deeplabv3plus_tiny.py', '$parts/default_runtime.py']
data: {labeled: '$parts/datasets/shapes.py', semi: '$parts/datasets/shapes_semi.py'}
settings: {model.decode_head.num_classes: 6, model.data_preprocessor.size: [96, 96]}
start: null
further: {schedule: '$parts/schedules/shapes_800.py', settings: {train_cfg.max_iters: 2, train_cfg.val_interval: 2}}
matrix: [{methods: [supervised, fixmatch]}]
splits: {all: {}}
seeds: [0]
END
try study tiny.yaml
try report work_dirs/tiny --out report.html
echo 'All commands ran.'
