#!/usr/bin/env bash
# What a GPU has to show, in some 8 minutes and without a network: the tests that need one, the benchmark of whole
# steps, and a short training in each precision. Writes JSON into DIR.
#
#     tools/gpu_check.sh [DIR]        DEVICE=cpu to try the script itself
set -euo pipefail
OUT=$(realpath -m "${1:-gpu_check}")
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python}
cd "$(dirname "$0")/.."
mkdir -p "$OUT"
$PYTHON -m pytest -q -m gpu tests/test_gpu.py --junitxml="$OUT/tests.xml" || [[ $? == 5 ]]
if [[ $DEVICE == cuda ]]; then
    SIZES=(--size 321 --batch 4 --repeats 20)
    STEPS=200
else
    SIZES=(--size 65 --batch 2 --repeats 1 --cfg-options model.segmentor.backbone.depth=50)
    STEPS=2
fi
$PYTHON tools/analysis_tools/benchmark.py step --device "$DEVICE" --json "$OUT/steps.json" \
    configs/{derprop,unimatch_v2,fixmatch}/r101_voc_1-4.py "${SIZES[@]}"
$PYTHON tools/analysis_tools/benchmark.py ops --device "$DEVICE" --grid 41 --batch 2 --json "$OUT/ops.json"
$PYTHON tools/dataset_converters/make_shapes.py --out "$OUT/shapes" --labeled 24 --unlabeled 400 --val 100
for precision in float32 float16 bfloat16; do
    amp=(--amp "$precision")
    [[ $precision == float32 ]] && amp=()
    [[ $DEVICE == cpu && $precision == float16 ]] && continue
    $PYTHON tools/train.py configs/derprop/tiny_shapes.py --work-dir "$OUT/$precision" "${amp[@]}" \
        --cfg-options data_root="$OUT/shapes" train_cfg.max_iters="$STEPS" train_cfg.val_interval="$STEPS"
done
echo "Results: $OUT"
