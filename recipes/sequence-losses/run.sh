#!/usr/bin/env bash
# Every sequence-level loss, each starting from one model trained with cross-entropy and trained for the same further
# time; the control is further training with cross-entropy. Some two hours on 2 CPU cores with fast bf16 multiplication;
# minutes with SMALL=1.
#
#     recipes/sequence-losses/run.sh               downloads Multi30k and Tatoeba Chinese-English (4 MB)
#     DATA=dir recipes/sequence-losses/run.sh      reads dir/multi30k/train.de.gz ... and dir/cmn-eng/train.zh.gz ...
#     SMALL=1 recipes/sequence-losses/run.sh       test run on the demo's corpus, no network; scores are meaningless
#     JOBS=4 THREADS=2 ...                         training runs in parallel (default: 2), CPU threads of each (default: 1)
#     LOSSES="cross-entropy risk@0.0003" ...       only these losses; @ sets a learning rate
#     SEEDS="1 2 3 4 5 6" ...                      seeds of Multi30k (default: 1 2 3); Tatoeba has only the first
#     WORK=dir ...                                 work directory (default: work/sequence-losses)
#
# Writes a table for each corpus to $WORK/report. A stopped grid resumes when started again: finished runs are kept, the
# others continue. To start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
python=$(dirname "$(command -v nmt)")/python # this Python has nmtcli
unset NMT_DATA NMT_MODEL                     # use the directories in WORK

work=${WORK:-$root/work/sequence-losses}
mkdir -p "$work"
work=$(cd "$work" && pwd)
threads=${THREADS:-1}
losses="cross-entropy cross-entropy@0.0003 greedy greedy-passes beam risk risk@0.0003 max-margin sequence-nll"
searches="1-1.0 5-1.0 5-1.5 5-2.0" # beam-penalty; report.py chooses the length penalty on the validation set

prepare() { # source and target language, files, more options: make data-bin and the texts in this folder
    local source=$1 target=$2 train=$3 valid=$4 test=$5
    for language in "$source" "$target"; do
        for split in "valid=$valid" "test=$test"; do
            local file=${split#*=}.$language
            if [[ -f $file.gz ]]; then
                gzip -dc "$file.gz" > "${split%%=*}.$language"
            else
                cp "$file" "${split%%=*}.$language"
            fi
        done
    done
    nmt preprocess -s "$source" -t "$target" --train "$train" --valid "$valid" --config "$here/recipe.toml" \
        --overwrite "${@:6}"
}

options_of() { # loss: its options, with as many updates as the control makes in the same time (ratios in README.md)
    local fast="--learning-rate 0.001" slow="--learning-rate 0.0003" candidates="--candidates 6 --loss-mix 0.1"
    case $1 in
        cross-entropy) echo "$fast --max-updates $updates" ;;
        greedy) echo "--loss greedy --teacher-forcing 0.8 $slow --max-updates $((updates * 10 / 23))" ;;
        greedy-passes)
            echo "--loss greedy --greedy-passes 2 --teacher-forcing 0.5 $slow --max-updates $((updates * 10 / 13))"
            ;;
        beam)
            echo "--loss beam --candidates 6 --beam-cost bleu --loss-mix 0.5 $slow --max-updates $((updates * 10 / 52))"
            ;;
        risk) echo "--loss risk --risk-alpha 10 $candidates $fast --max-updates $((updates * 10 / 85))" ;;
        max-margin) echo "--loss max-margin $candidates $slow --max-updates $((updates * 10 / 85))" ;;
        sequence-nll) echo "--loss sequence-nll $candidates $fast --max-updates $((updates * 10 / 85))" ;;
    esac
}

train() { # corpus, folder, options: train, or resume, in a folder of the corpus
    mkdir -p "$work/$1/$2"
    cd "$work/$1/$2"
    nmt train --config "$here/recipe.toml" --data ../data-bin --threads "$threads" --resume "${@:3}" 2>> train.log
}

tune_and_score() { # corpus, loss, seed: train and score in its own folder, unless finished
    local source=${1: -5:2} target=${1: -2} # multi30k-de-en: de and en
    local folder=$work/$1/$2-$3
    if [[ -f $folder/done ]]; then
        return
    fi
    local rate=()
    if [[ $2 == *@* ]]; then
        rate=(--learning-rate "${2#*@}")
    fi
    # shellcheck disable=SC2046 # the options are several words
    train "$1" "$2-$3" --init-from ../base/model --seed "$3" --validate-every 0 \
        $(options_of "${2%@*}") "${rate[@]}"
    for split in valid test; do
        for search in $searches; do
            if [[ ${2%@*} == beam && $search != *-1.0 ]]; then
                continue # its scores are logits, to which no other penalty applies
            fi
            nmt translate --config "$here/recipe.toml" --threads "$threads" --beam "${search%-*}" \
                --length-penalty "${search#*-}" < "../$split.$source" > "$split.$search.$target"
            nmt score --config "$here/recipe.toml" --target-lang "$target" --ref "../$split.$target" --json \
                < "$split.$search.$target" > "$split.$search.json"
        done
    done
    touch done
    echo "$1, $2, seed $3 is done."
}

if [[ -n ${SMALL:-} ]]; then
    python3 "$root/recipes/demo/make_corpus.py" "$work/corpus" --train 8000 --valid 100 --test 100
    mkdir -p "$work/demo-en-zh"
    cd "$work/demo-en-zh"
    prepare en zh "$work/corpus/train" "$work/corpus/valid" "$work/corpus/test"
    corpora="demo-en-zh" seeds=${SEEDS:-1} base_updates=200 updates=30
else
    if [[ -n ${DATA:-} ]]; then
        data=$(cd "$DATA" && pwd)
    else
        data=$work/corpus
        "$root/recipes/multi30k-de-en/fetch.sh" "$data/multi30k"
        "$root/recipes/tatoeba-zh-en/fetch.sh" "$data/cmn-eng"
    fi
    mkdir -p "$work/multi30k-de-en" "$work/tatoeba-zh-en"
    cd "$work/multi30k-de-en"
    prepare de en "$data/multi30k/train" "$data/multi30k/val" "$data/multi30k/test_2016_flickr"
    cd "$work/tatoeba-zh-en"
    prepare zh en "$data/cmn-eng/train" "$data/cmn-eng/val" "$data/cmn-eng/test" --separate
    corpora="multi30k-de-en tatoeba-zh-en" seeds=${SEEDS:-1 2 3} base_updates=20000 updates=4500
fi

export -f train tune_and_score options_of
export here work threads updates searches
for corpus in $corpora; do
    echo "$corpus" base --learning-rate 0.002 --max-updates "$base_updates" --validate-every "$((base_updates / 10))"
done | xargs -P "${JOBS:-2}" -L 1 bash -euo pipefail -c 'train "$@"' train

for seed in $seeds; do
    for corpus in $corpora; do
        if [[ $corpus == tatoeba-zh-en && $seed != "${seeds%% *}" ]]; then
            continue
        fi
        for loss in ${LOSSES:-$losses}; do
            echo "$corpus $loss $seed"
        done
    done
done | xargs -P "${JOBS:-2}" -L 1 bash -euo pipefail -c 'tune_and_score "$@"' tune_and_score

"$python" "$here/report.py" "$work" "$work/report"
