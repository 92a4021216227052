"""The LSTM encoder-decoder: tensors in, tensors out; no files, no text.

Throughout the package, the name of a tensor ends with its axes, one letter each:

    B  sentences of a batch; in `search.ensemble.top`, blocks of values
    C  choices: candidates for the next token, for a source piece, or for a whole translation
    D  attention width
    E  embedding width, or the inputs of any matrix
    F  a few tokens of the vocabulary, such as the forbidden or the frequent ones
    G  gates times hidden: the rows of a recurrent layer's matrices
    H  hidden width
    J  input width plus hidden width, for the two concatenated
    K  beam: hypotheses per sentence
    L  layers; in `search.ensemble.top`, values of a block
    M  models of an ensemble
    N  rows: B * K, or any flattened batch
    R  rows selected from N, or N plus padding rows
    S  source positions; in `data.shortlist`, source pieces
    T  target positions; in `data.shortlist`, target pieces
    U  a subset of the vocabulary, such as a shortlist
    V  vocabulary, or the outputs of any matrix
    1  an axis of size 1, kept to broadcast
    2  an axis of size 2

So `memory_BSH` is (sentences, source positions, hidden). Masks are True on real tokens.
"""
