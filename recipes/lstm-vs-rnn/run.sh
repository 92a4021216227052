#!/usr/bin/env bash
# Plain RNN, GRU and LSTM, with attention and through one fixed vector: the same data, the same number of updates, the
# same number of parameters. Some two hours on 2 CPU cores; minutes with SMALL=1.
#
#     recipes/lstm-vs-rnn/run.sh               fetches Multi30k and Tatoeba's Chinese (4 MB) from their public homes
#     DATA=dir recipes/lstm-vs-rnn/run.sh      takes dir/multi30k/train.de.gz ... and dir/cmn-eng/train.zh.gz ...
#     SMALL=1 recipes/lstm-vs-rnn/run.sh       the whole way on the demo's corpus, no network; its scores say nothing
#     JOBS=4 THREADS=2 ...                     training runs side by side (2), and CPU threads of each (1)
#     WORK=dir ...                             works in dir, not in work/lstm-vs-rnn
#
# Writes $WORK/report: table and pictures. A grid that was stopped goes on when started again: runs that are done are not
# done again, the one that was cut goes on where it was. To start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # after `make setup`
fi
python=$(dirname "$(command -v nmt)")/python # the one that has nmtcli
unset NMT_DATA NMT_MODEL                     # the directories are those in WORK

if ! "$python" -c "import matplotlib" 2> /dev/null; then
    echo 'Error: the pictures need matplotlib. Run pip install "nmtcli[plots]".' >&2
    exit 2
fi
work=${WORK:-$root/work/lstm-vs-rnn}
mkdir -p "$work"
work=$(cd "$work" && pwd)
threads=${THREADS:-1}
length="" # of training, where it is not recipe.toml's

prepare() { # source and target language, files, more options: makes data-bin and the test text in this folder
    local source=$1 target=$2 train=$3 valid=$4 test=$5
    for language in "$source" "$target"; do
        if [[ -f $test.$language.gz ]]; then
            gzip -dc "$test.$language.gz" > "test.$language"
        else
            cp "$test.$language" "test.$language"
        fi
    done
    nmt preprocess -s "$source" -t "$target" --train "$train" --valid "$valid" --config "$here/recipe.toml" \
        --overwrite "${@:6}"
}

train_and_score() { # corpus, column, cell, seed: in a folder of its own, unless that was done
    local column=$2 cell=$3 seed=$4
    local source=${1: -5:2} target=${1: -2} # multi30k-de-en: de and en
    local folder=$work/$1/$column-$cell-$seed
    local -A arch=([attention]=luong [fixed]=sutskever)
    local -A width=( # what makes the parameters as many in each column, embeddings apart
        [attention-rnn]=472 [attention-gru]=308 [attention-lstm]=256
        [fixed-rnn]=528 [fixed-gru]=312 [fixed-lstm]=256
    )
    if [[ -f $folder/score.json ]]; then
        return
    fi
    mkdir -p "$folder"
    cd "$folder"
    # shellcheck disable=SC2086 # $length is words
    nmt train --config "$here/recipe.toml" --data ../data-bin --arch "${arch[$column]}" --cell "$cell" \
        --hidden-size "${width[$column-$cell]}" --seed "$seed" --threads "$threads" --resume $length 2>> train.log
    nmt translate --config "$here/recipe.toml" --threads "$threads" < "../test.$source" > "output.$target"
    nmt score --config "$here/recipe.toml" --target-lang "$target" --ref "../test.$target" --json \
        < "output.$target" > score.json.part
    mv score.json.part score.json
    echo "$1, $column, $cell, seed $seed is done."
}

if [[ -n ${SMALL:-} ]]; then
    python3 "$root/recipes/demo/make_corpus.py" "$work/corpus" --train 8000 --valid 100 --test 100
    mkdir -p "$work/demo-en-zh"
    cd "$work/demo-en-zh"
    prepare en zh "$work/corpus/train" "$work/corpus/valid" "$work/corpus/test"
    length="--max-updates 120 --validate-every 40"
    corpora="demo-en-zh" seeds="1"
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
    corpora="multi30k-de-en tatoeba-zh-en" seeds="1 2 3"
fi

export -f train_and_score
export here work threads length
for seed in $seeds; do
    for corpus in $corpora; do
        if [[ $corpus == tatoeba-zh-en && $seed != 1 ]]; then
            continue # one seed
        fi
        for column in fixed attention; do
            for cell in rnn gru lstm; do
                echo "$corpus $column $cell $seed"
            done
        done
    done
done | xargs -P "${JOBS:-2}" -L 1 bash -euo pipefail -c 'train_and_score "$@"' train_and_score

"$python" "$here/report.py" "$work" "$work/report"
