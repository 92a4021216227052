"""The LSTM encoder-decoder: tensors in, tensors out; no files, no text.

Tensors carry their axes in the name, one letter each, in the whole package:

    B  sentences of a batch; in `search.ensemble.top`, blocks of values
    C  choices: candidates for the next token, for a source piece, or for a whole translation
    D  attention width
    E  embedding width, or the inputs of any matrix
    F  a few tokens of the vocabulary: those that are forbidden, or frequent
    G  gates times hidden: the rows of a recurrent layer's matrices
    H  hidden width
    J  input and hidden width side by side
    K  beams: hypotheses of a sentence
    L  layers; in `search.ensemble.top`, values of a block
    M  models of an ensemble
    N  rows: B * K, or any flattened batch
    R  rows selected from N, or N rows padded
    S  source positions; in `data.shortlist`, source pieces
    T  target positions; in `data.shortlist`, target pieces
    U  a subset of the vocabulary, such as a shortlist
    V  vocabulary, or the outputs of any matrix
    1  an axis of size 1, kept to broadcast
    2  an axis of size 2

So `memory_BSH` is (sentences, source positions, hidden). Masks are True on real tokens.
"""
