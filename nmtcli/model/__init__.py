"""The LSTM encoder-decoder: tensors in, tensors out; no files, no text.

Tensors carry their axes in the name:

    B  sentences            S  source positions     E  embedding width
    N  rows (B * K, or any  T  target positions     H  hidden width
       flattened batch)     V  vocabulary           L  layers
    K  beams                G  gates times hidden   D  attention width

So `memory_BSH` is (sentences, source positions, hidden). Masks are True on real tokens.
"""
