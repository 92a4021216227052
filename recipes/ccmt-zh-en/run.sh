#!/usr/bin/env bash
# CCMT, Chinese to English: the corpus of the China Conference on Machine Translation, 9 million pairs; validation on
# WMT's newstest2017, test on newstest2018. For a GPU; a day or more on a CPU.
#
#     DATA=dir recipes/ccmt-zh-en/run.sh    reads casia2015_en.txt and casia2015_ch.txt, NEU_en.txt and NEU_cn.txt ...
#                                           from dir, at any depth
#     WORK=dir ...                          work directory (default: work/ccmt-zh-en)
#
# The corpus is available on request (see README.md); the script downloads only the validation and test sets, which
# sacreBLEU gets from WMT unless DATA has val.zh, val.en, test.zh and test.en. A stopped run resumes when started again;
# to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
python=$(dirname "$(command -v nmt)")/python # this Python has sacreBLEU
unset NMT_DATA NMT_MODEL                     # use the directories in WORK

if [[ -z ${DATA:-} ]]; then
    echo "Error: DATA must name the folder that has the CCMT corpus. $here/README.md tells where to get it." >&2
    exit 2
fi
data=$(cd "$DATA" && pwd)
work=${WORK:-$root/work/ccmt-zh-en}
mkdir -p "$work"
cd "$work"

held_out() { # split, WMT test set: copy the split from DATA, or download the test set
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
