#!/usr/bin/env bash
# OpenSubtitles 2018, Chinese to English: 11 million film subtitles. For a GPU; a day or more on a CPU.
#
#     recipes/opensubtitles-zh-en/run.sh             downloads the corpus (300 MB) from OPUS and splits it
#     DATA=dir recipes/opensubtitles-zh-en/run.sh    reads dir/en-zh_cn.txt.zip, as published by OPUS
#     PAIRS=500000 ...                               trains on about this many pairs (default: all)
#     WORK=dir ...                                   work directory (default: work/opensubtitles-zh-en)
#
# A stopped run resumes when started again; to start afresh, or with other PAIRS, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
unset NMT_DATA NMT_MODEL # use the directories in WORK

work=${WORK:-$root/work/opensubtitles-zh-en}
mkdir -p "$work"
work=$(cd "$work" && pwd)

if [[ -n ${DATA:-} ]]; then
    archive=$(cd "$DATA" && pwd)/en-zh_cn.txt.zip
else
    archive=$work/en-zh_cn.txt.zip
    if [[ ! -f $archive ]]; then
        curl --fail --silent --show-error --location --retry 3 --continue-at - --output "$archive.part" \
            https://object.pouta.csc.fi/OPUS-OpenSubtitles/v2018/moses/en-zh_cn.txt.zip
        mv "$archive.part" "$archive"
    fi
fi

cd "$work"
if [[ ! -f test.zh ]]; then
    python3 "$here/split_films.py" "$archive" corpus --train "${PAIRS:-0}"
    gzip -dc corpus/test.en.gz > test.en
    gzip -dc corpus/test.zh.gz > test.zh
fi

nmt preprocess -s zh -t en --train corpus/train --valid corpus/val --test corpus/test --config "$here/recipe.toml" \
    --overwrite
nmt train --config "$here/recipe.toml" --resume
nmt translate --config "$here/recipe.toml" --beam 5 < test.zh > output.en
nmt score --config "$here/recipe.toml" --target-lang en --ref test.en < output.en
