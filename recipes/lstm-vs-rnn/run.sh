#!/usr/bin/env bash
# Plain RNN, GRU and LSTM, with attention and with one fixed vector: the same data, the same number of updates and the
# same number of parameters. Some two hours on 2 CPU cores; minutes with SMALL=1.
#
#     recipes/lstm-vs-rnn/run.sh               downloads Multi30k and Tatoeba Chinese-English (4 MB)
#     DATA=dir recipes/lstm-vs-rnn/run.sh      reads dir/multi30k/train.de.gz ... and dir/cmn-eng/train.zh.gz ...
#     SMALL=1 recipes/lstm-vs-rnn/run.sh       test run on the demo's corpus, without a network; scores are meaningless
#     JOBS=4 THREADS=2 ...                     training runs in parallel (default: 2), CPU threads of each (default: 1)
#     WORK=dir ...                             work directory (default: work/lstm-vs-rnn)
#
# Writes tables and plots to $WORK/report. A stopped grid resumes when started again: finished runs are kept, the others
# continue. To start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
python=$(dirname "$(command -v nmt)")/python # this Python has nmtcli
unset NMT_DATA NMT_MODEL                     # use the directories in WORK

if ! "$python" -c "import matplotlib" 2> /dev/null; then
    echo 'Error: the plots need matplotlib. Run pip install "nmtcli[plots]".' >&2
    exit 2
fi
work=${WORK:-$root/work/lstm-vs-rnn}
mkdir -p "$work"
work=$(cd "$work" && pwd)
threads=${THREADS:-1}
length="" # options that shorten training

prepare() { # source and target language, files, more options: make data-bin and the test text in this folder
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

train_and_score() { # corpus, column, cell, seed: train and score in its own folder, unless finished
    local column=$2 cell=$3 seed=$4
    local source=${1: -5:2} target=${1: -2} # multi30k-de-en: de and en
    local folder=$work/$1/$column-$cell-$seed
    local -A arch=([attention]=luong [fixed]=sutskever)
    local -A width=( # equal numbers of parameters in each column, without embeddings
        [attention-rnn]=472 [attention-gru]=308 [attention-lstm]=256
        [fixed-rnn]=528 [fixed-gru]=312 [fixed-lstm]=256
    )
    if [[ -f $folder/score.json ]]; then
        return
    fi
    mkdir -p "$folder"
    cd "$folder"
    # shellcheck disable=SC2086 # $length is several words
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
            continue # one seed only
        fi
        for column in fixed attention; do
            for cell in rnn gru lstm; do
                echo "$corpus $column $cell $seed"
            done
        done
    done
done | xargs -P "${JOBS:-2}" -L 1 bash -euo pipefail -c 'train_and_score "$@"' train_and_score

"$python" "$here/report.py" "$work" "$work/report"
