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
export PATH="$folder/venv/bin:$PATH" OMP_NUM_THREADS=1
unset PYTHONPATH

try() {
  echo "mmseg-derprop $*"
  mmseg-derprop "$@" >log 2>&1 || { cat log >&2; exit 1; }
}

base=mmseg_derprop::supervised/tiny_shapes.py
short=(--cfg-options train_cfg.max_iters=2 train_cfg.val_interval=2)
lists=data/shapes/ImageSets/Segmentation
images="data/shapes/JPEGImages/val*"
for command in $(mmseg-derprop | sed -n 's/^  \([a-z-]*\) .*/\1/p'); do try "$command" --help; done
try make-shapes --labeled 8 --unlabeled 8 --val 4
try make-split --list $lists/unlabeled.txt --num 4 --out splits
try semi-config --base $base --labeled $lists/labeled.txt --unlabeled $lists/unlabeled.txt --out semi.py
try check-data semi.py
try browse semi.py --number 1
try train semi.py "${short[@]}"
trained=(semi.py work_dirs/semi/iter_2.pth)
try test "${trained[@]}" --predict-on both
try predict "$images" "${trained[@]}"
try pseudo-label "$images" "${trained[@]}" --out-dir labels
try label-quality "${trained[@]}" --data val
try benchmark ops --no-reference --grid 9 --batch 1
try export work_dirs/semi/iter_2.pth
try study mmseg_derprop::studies/camvid_cpu.yaml --dry-run
cat >tiny.yaml <<END
bases:
  - mmseg_derprop::_base_/models/deeplabv3plus_tiny.py
  - mmseg_derprop::_base_/default_runtime.py
data:
  labeled: mmseg_derprop::_base_/datasets/shapes.py
  semi: mmseg_derprop::_base_/datasets/shapes_semi.py
settings: {model.decode_head.num_classes: 6, 'model.data_preprocessor.size': [96, 96]}
splits: {all: {}}
seeds: [0]
further:
  schedule: mmseg_derprop::_base_/schedules/shapes_800.py
  settings: {train_cfg.max_iters: 2, train_cfg.val_interval: 2}
methods: {supervised: {}, fixmatch: {config: mmseg_derprop::_base_/methods/fixmatch.py}}
END
try study tiny.yaml
try report work_dirs/tiny --out report.html
echo 'All commands ran.'
