#!/usr/bin/env bash
# The demo: English to Chinese, from nothing to translations and a score. About two minutes on a CPU, no network.
#
#     recipes/demo/run.sh                  works in work/demo
#     WORK=dir recipes/demo/run.sh         works in dir
#
# The corpus comes from a small grammar (make_corpus.py); the test sentences are combinations that training has not
# seen. Expected: BLEU of at least 90 on them. A second run starts afresh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # after `make setup`
fi
unset NMT_DATA NMT_MODEL # the directories are those in WORK

work=${WORK:-$root/work/demo}
mkdir -p "$work"
cd "$work"
work=$PWD

python3 "$here/make_corpus.py" corpus
nmt preprocess -s en -t zh --train corpus/train --valid corpus/valid --config "$here/recipe.toml" --overwrite
nmt train --config "$here/recipe.toml" --overwrite
nmt translate --config "$here/recipe.toml" < corpus/test.en > output.zh

echo
echo "Every 100th of the 500 test sentences, which training has not seen:"
echo
paste corpus/test.en corpus/test.zh output.zh | awk -F '\t' '
    NR % 100 == 0 { print "source       " $1 "\nreference    " $2 "\ntranslation  " $3 "\n" }
    "" $2 == "" $3 { equal++ }
    END { print equal + 0 " of " NR " translations equal their reference.\n" }'
nmt score --config "$here/recipe.toml" --target-lang zh --ref corpus/test.zh < output.zh
echo
echo "From the grammar to the score in $SECONDS seconds; all is in $work."
echo "The model knows the sentence patterns of the grammar, and no others. Go on with:"
echo "    echo 'Tom likes singing and cooking.' | $(command -v nmt) translate --model $work/model"
