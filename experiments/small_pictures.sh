#!/usr/bin/env bash
# The runs behind docs/results.md: tables 1c and 2 on small real pictures, three seeds each.
#
#     bash experiments/small_pictures.sh PICTURES [velocity]
#
# PICTURES is a folder or zip of `train/<class>/<picture>` and `val/<class>/<picture>`. With `velocity` the networks predict
# velocities, without it clean pictures. What is finished is not done again; the reports are in runs/small/reports.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pictures="$(realpath "$1")"
runs="$PWD/runs/small"
export OMP_NUM_THREADS=1 # numbers depend on the number of threads in their last digits

# A classifier measures all runs, and is the target of none; the other one is the target of those of the second kind.
judge=(--run-dir "$runs/judge" --set 'program.encoder={type: shapes_net, weights: random}' --set train.learning_rate=2.0e-3
    --set train.steps=6000)
target=(--run-dir "$runs/target" --set program.encoder.hidden_size=128 --set program.encoder.depth=4
    --set program.encoder.num_heads=4 --set program.encoder.mlp_size=512 --set train.learning_rate=1.0e-3
    --set train.steps=900)
for classifier in judge target; do
    declare -n settings=$classifier
    cargo xtask run recipes/classification.yaml --profile tiny-imagenet --set data.path="$pictures" \
        --set program.validation.path="$pictures" "${settings[@]}"
done

common=(--profile tiny-imagenet --seeds 3 --jobs 2 --set data.path="$pictures"
    --set backbone.hidden_size=96 --set backbone.depth=6 --set flip=0.0
    --set train.global_batch_size=32 --set train.micro_batch_size=32 --set train.schedule.warmup_steps=50
    --set log.preview_every=0 --set evaluation.num_samples=1000 --set evaluation.num_reference=2048
    --set "evaluation.features=[{type: encoder, encoder: {type: checkpoint, run: $runs/judge}, grid: 8}]")
kind="${2:-clean}"
[ "$kind" = clean ] || [ "$kind" = velocity ] || { echo "\`$kind\`: allowed is \`velocity\`, or nothing" >&2; exit 1; }
folder="$runs/$kind"
common+=(--runs "$folder")
if [ "$kind" = velocity ]; then
    common+=(--set train.steps=600 --set log.checkpoint_every=600
        --set sample.sampler.num_steps=20)
else
    common+=(--set train.steps=800 --set log.checkpoint_every=200 --set log.keep_checkpoints=4
        --set 'objective={type: x_prediction, label_dropout: 0.1}'
        --set 'sample.sampler={type: jit_ode, num_steps: 20, method: euler}')
fi
trained=(--set "alignment.0.encoders=[{type: checkpoint, run: $runs/target}]")

# The folder of a report is named after its overrides; a copy gets a name for people.
reproduce() {
    local table=$1 name=$2 page
    shift 2
    page="$(cargo xtask reproduce "$table" "${common[@]}" "$@" | tee /dev/stderr | sed -n 's/^report: //p')"
    mkdir -p "$runs/reports"
    cp -rT "$(dirname "$page")" "$runs/reports/$kind-$table-$name"
}
reproduce table1c trained --rows 1,2,7 "${trained[@]}"
if [ "$kind" = clean ]; then # distance against steps
    curves=()
    for run in "$folder"/sit-{,repa-,irepa-}tiny-imagenet-*; do
        case "${run##*/}" in
            sit-tiny*) name=none ;;
            sit-repa*) name=REPA ;;
            *) name=iREPA ;;
        esac
        [ "$name" = none ] || grep -q "run: $runs/target" "$run/recipe.yaml" || continue
        cargo xtask eval "$run" --step all --set sample.cfg_scale=1.0
        curves+=("$name=$run")
    done
    cargo xtask plot "${curves[@]}" --metric fd_checkpoint --out "$runs/reports/clean-curve.svg"
fi
reproduce table2 trained --set alignment.0.encoder_depth=2 "${trained[@]}"
reproduce table1c hog --rows 1,2,7
reproduce table2 hog --set alignment.0.encoder_depth=2
