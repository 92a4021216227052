#!/usr/bin/env bash
# Tatoeba, Chinese to English and English to Chinese: short everyday sentences. Some ten minutes a direction on a
# CPU.
#
#     recipes/tatoeba-zh-en/run.sh                      fetches the corpus (2 MB) from its public home and splits it
#     DATA=dir recipes/tatoeba-zh-en/run.sh             takes train.en.gz train.zh.gz val.en.gz ... test.zh.gz from dir
#     DIRECTION=zh-en recipes/tatoeba-zh-en/run.sh      one direction only: zh-en or en-zh (without: both)
#     RECIPE=char recipes/tatoeba-zh-en/run.sh          takes char.toml, not recipe.toml: characters are the units
#     WORK=dir recipes/tatoeba-zh-en/run.sh             works in dir, not in work/tatoeba-zh-en
#
# Scores of the fetched corpus and of DATA do not compare: their test sets differ (see README.md). A run that was
# stopped goes on when started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # after `make setup`
fi
unset NMT_DATA NMT_MODEL # the directories are those in WORK

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
