#!/usr/bin/env bash
# CCMT, Chinese to English: the corpus of the China Conference on Machine Translation, 9 million pairs; validation and
# test on WMT's news of 2017 and 2018. For a GPU; a day or more on a CPU.
#
#     DATA=dir recipes/ccmt-zh-en/run.sh    takes casia2015_en.txt and casia2015_ch.txt, NEU_en.txt and NEU_cn.txt ...
#                                           from anywhere below dir
#     WORK=dir ...                          works in dir, not in work/ccmt-zh-en
#
# The corpus is given to who asks for it (see README.md), so there is nothing to fetch but the validation and test text,
# which sacreBLEU gets from WMT unless DATA has val.zh, val.en, test.zh and test.en. A run that was stopped goes on when
# started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # after `make setup`
fi
python=$(dirname "$(command -v nmt)")/python # the one that has sacreBLEU
unset NMT_DATA NMT_MODEL                     # the directories are those in WORK

if [[ -z ${DATA:-} ]]; then
    echo "Error: DATA must name the folder that has the CCMT corpus. See $here/README.md for where to get it." >&2
    exit 2
fi
data=$(cd "$DATA" && pwd)
work=${WORK:-$root/work/ccmt-zh-en}
mkdir -p "$work"
cd "$work"

held_out() { # name, WMT's year: the text in DATA, or WMT's
    for side in zh=src en=ref; do
        local file=$1.${side%=*}
        if [[ -f $data/$file ]]; then
            cp "$data/$file" "$file"
        elif [[ ! -f $file ]]; then
            "$python" -m sacrebleu --test-set "$2" --language-pair zh-en --echo "${side#*=}" > "$file.part"
            mv "$file.part" "$file"
        fi
    done
}

held_out val wmt17
held_out test wmt18
if [[ ! -f corpus/done ]]; then
    python3 "$here/join_ccmt.py" "$data" val test corpus
    touch corpus/done
fi

nmt preprocess -s zh -t en --train corpus/train --valid corpus/val --test corpus/test --config "$here/recipe.toml" \
    --overwrite
nmt train --config "$here/recipe.toml" --resume
nmt translate --config "$here/recipe.toml" --beam 5 < test.zh > output.en
nmt score --config "$here/recipe.toml" --target-lang en --ref test.en < output.en
