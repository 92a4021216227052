#!/usr/bin/env bash
# Tatoeba, Chinese to English and English to Chinese: short everyday sentences. Some ten minutes per direction on a CPU.
#
#     recipes/tatoeba-zh-en/run.sh                      downloads the corpus (2 MB) from ManyThings.org and splits it
#     DATA=dir recipes/tatoeba-zh-en/run.sh             reads train.en.gz train.zh.gz val.en.gz ... test.zh.gz from dir
#     DIRECTION=zh-en recipes/tatoeba-zh-en/run.sh      one direction only: zh-en or en-zh (default: both)
#     RECIPE=char recipes/tatoeba-zh-en/run.sh          uses char.toml instead of recipe.toml: a character-level model
#     WORK=dir recipes/tatoeba-zh-en/run.sh             work directory (default: work/tatoeba-zh-en)
#
# Scores on the downloaded corpus and on DATA are not comparable: their test sets differ (see README.md). A stopped run
# resumes when started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
unset NMT_DATA NMT_MODEL # use the directories in WORK

case ${DIRECTION:-both} in
    both) directions="zh-en en-zh" ;;
    zh-en | en-zh) directions=$DIRECTION ;;
    *)
        echo "Error: DIRECTION must be zh-en, en-zh or both, but is $DIRECTION." >&2
        exit 2
        ;;
esac

work=${WORK:-$root/work/tatoeba-zh-en${RECIPE:+-$RECIPE}}
mkdir -p "$work"
work=$(cd "$work" && pwd)

if [[ -n ${DATA:-} ]]; then
    data=$(cd "$DATA" && pwd)
else
    data=$work/corpus
    "$here/fetch.sh" "$data"
fi

for direction in $directions; do
    source=${direction%-*}
    target=${direction#*-}
    mkdir -p "$work/$direction"
    cd "$work/$direction"
    gzip -dc "$data/test.$source.gz" > "test.$source"
    gzip -dc "$data/test.$target.gz" > "test.$target"

    nmt preprocess -s "$source" -t "$target" --train "$data/train" --valid "$data/val" --test "$data/test" \
        --config "$here/${RECIPE:-recipe}.toml" --overwrite
    nmt train --config "$here/${RECIPE:-recipe}.toml" --resume
    nmt translate --config "$here/${RECIPE:-recipe}.toml" --beam 5 < "test.$source" > "output.$target"

    echo
    echo "Ten translations, $source to $target (every 100th test sentence: source, reference, translation):"
    paste -d '\n' "test.$source" "test.$target" "output.$target" | awk '
        (NR - 1) % 300 >= 3 || NR > 3000 { next }
        NR % 3 == 1 { print "" }
        { print "    " $0 }'
    echo
    nmt score --config "$here/${RECIPE:-recipe}.toml" --target-lang "$target" --ref "test.$target" < "output.$target"
done
