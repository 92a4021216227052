"""Every knob of every stage, one line each: type, default, help with its unit, bounds, source.

The command-line option, the key in a recipe's TOML and the stored JSON all come from the field: `batch_tokens` is
`--batch-tokens`, `batch_tokens = 4096` in TOML, and `"batch_tokens": 4096` in `config.json`. Configs are frozen:
they are checked once, when they are made, and never change. Standard library only, so that `nmt --help` is quick.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nmtcli.errors import ConfigError
from nmtcli.knobs import Config, opt, option_name

SUBWORDS = ("unigram", "bpe", "char", "word", "none")
NORMALIZATIONS = ("identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf")
DEVICES_HELP = "auto, cpu, cuda or cuda:N"
PRECISIONS = ("auto", "fp32", "bf16")
DATA = opt("data-bin", "the data directory", env="NMT_DATA")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessConfig(Config):
    """Raw parallel text -> data directory."""

    source_lang: str = opt("", "source language, the ending of the source files", short="s", required=True)
    target_lang: str = opt("", "target language, the ending of the target files", short="t", required=True)
    train: tuple[str, ...] = opt((), "training text: PREFIX.<lang>[.gz|.bz2|.xz|.zst], or a .tsv file", required=True)
    valid: str = opt("", "validation text, likewise; never cleaned; required but for --append")
    test: tuple[str, ...] = opt((), "test text, likewise; never cleaned")
    data: str = DATA
    subword: str = opt("unigram", "units of the text; none: it is tokenised, its words are the units", choices=SUBWORDS)
    vocab_size: int = opt(8000, "pieces at most, in each vocabulary; 0: all (word and none only)", at_least=0)
    joint: bool = opt(True, "one vocabulary for both languages, or one for each", off="--separate")
    source_model: str = opt("", "SentencePiece model for the source, instead of learning one")
    target_model: str = opt("", "SentencePiece model for the target, instead of learning one")
    user_words: str = opt("", "words that become pieces where the text holds them: a word a line (unigram, bpe)")
    user_words_min: int = opt(5, "occurrences in the training text that make one a piece", at_least=1)
    normalization: str = opt("identity", "SentencePiece's normalisation rule", choices=NORMALIZATIONS)
    character_coverage: float = opt(1.0, "share of characters that are pieces", at_least=0.9, at_most=1.0)
    sentences_for_vocab: int = opt(100_000, "pairs that SentencePiece learns from [pairs]", at_least=1)
    max_length: int = opt(250, "drop training pairs with a longer side; 0: none [tokens]", at_least=0)
    max_ratio: float = opt(0.0, "drop training pairs with one side so many times longer; 0: none", at_least=0.0)
    dedup: bool = opt(False, "drop training pairs that came before")
    workers: int = opt(0, "processes that read and encode; 0: one for each core", at_least=0)
    engine: str = opt(
        "local", "where they are: on this machine, or on those of a Ray cluster", choices=("local", "ray")
    )
    ray_address: str = opt("", "the cluster, as ray.init takes it; otherwise RAY_ADDRESS, or one of this machine alone")
    overwrite: bool = opt(False, "replace a data directory that is there")
    append: bool = opt(False, "add the training text to a data directory that is there, with its subword models")

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if not self.valid and not self.append:
            raise ConfigError("Missing option '--valid'", "Only --append does without it")
        if self.append and self.overwrite:
            raise ConfigError("--append and --overwrite do not go together", "Leave one out")
        if self.ray_address and self.engine != "ray":
            raise ConfigError("--ray-address needs --engine ray", "Leave it out, or give both")
        if self.source_lang == self.target_lang:
            raise ConfigError(f"source and target language are both `{self.source_lang}`", "Name two languages")
        if self.vocab_size == 0 and self.subword not in ("word", "none"):
            raise ConfigError(f"--vocab-size 0 needs --subword word or none, but it is {self.subword}")
        if self.subword == "none" and self.normalization != "identity":
            raise ConfigError(
                f"--subword none takes the text as it is, but --normalization is {self.normalization}",
                "Use --normalization identity",
            )
        if 0 < self.max_ratio < 1:
            raise ConfigError(f"--max-ratio must be 0 (off) or at least 1, but is {self.max_ratio:g}")
        if self.user_words and (self.source_model or self.subword not in ("unigram", "bpe")):
            option = "--source-model" if self.source_model else f"--subword {self.subword}"
            raise ConfigError(
                f"--user-words has no use with {option}", "It is for vocabularies of unigram or bpe to learn"
            )
        if bool(self.source_model) != bool(self.target_model):
            raise ConfigError("--source-model and --target-model go together", "Name both, the same file where joint")


# What --arch sets where neither a flag nor a recipe does; the wirings themselves are in model/decoder.py.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gnmt": {},
    "luong": {"input_feeding": True, "bidirectional": False, "reverse_source": True, "residual": False},
    "bahdanau": {"cell": "gru", "encoder_layers": 1, "decoder_layers": 1, "attention": "additive"},
    "sutskever": {"attention": "none", "bidirectional": False, "reverse_source": True, "residual": False},
    "cho": {"cell": "gru", "encoder_layers": 1, "decoder_layers": 1, "attention": "none", "bidirectional": False},
}
ARCHITECTURE_SOURCES = {
    "gnmt": "attention between the first and the upper layers (Wu et al. 2016; NVIDIA's GNMT v2)",
    "luong": "attention over the top layer (Luong et al. 2015)",
    "bahdanau": "attention before the recurrence (Bahdanau et al. 2015)",
    "sutskever": "the source as one fixed vector that starts the decoder (Sutskever et al. 2014)",
    "cho": "the source as one fixed vector that is read at every step (Cho et al. 2014)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Config):
    """The shape of a model and how its parameters start. Vocabulary sizes are not here: the data decides them."""

    arch: str = opt(
        "gnmt", "wiring of the decoder, and other defaults that go with it: see below", choices=tuple(ARCHITECTURES)
    )
    cell: str = opt("lstm", "recurrent cell of both sides", choices=("lstm", "gru", "rnn"))
    encoder_layers: int = opt(2, "recurrent layers of the encoder", at_least=1, at_most=64)
    decoder_layers: int = opt(2, "recurrent layers of the decoder", at_least=1, at_most=64)
    hidden_size: int = opt(512, "width of the recurrent layers, both directions together", at_least=1)
    embedding_size: int = opt(256, "width of the embeddings and of the readout", at_least=1)
    bidirectional: bool = opt(True, "the encoder reads in both directions, half the width each")
    reverse_source: bool = opt(False, "an encoder of one direction reads the source from its end")
    residual: bool = opt(True, "layers above the first add their input to their output")
    decoder_init: str = opt(
        "last",
        "the decoder starts from the encoder's last outputs, their mean, or zero",
        choices=("last", "mean", "zero"),
    )
    attention: str = opt(
        "general", "score of query and key; none: sutskever and cho", choices=("general", "dot", "additive", "none")
    )
    scale_attention: bool = opt(
        True, "dot and general scores are over the square root of their width (Vaswani et al. 2017)"
    )
    input_feeding: bool = opt(False, "luong's first layer reads the last readout too; training takes a loop over time")
    tie_embeddings: str = opt(
        "auto",
        "output projection = target embedding (target), = source embedding too (all); auto: all where joint",
        choices=("auto", "all", "target", "none"),
    )
    scale_embeddings: bool = opt(
        True, "inputs are embeddings times the square root of their width (Vaswani et al. 2017)"
    )
    dropout: float = opt(0.3, "on embeddings, between layers and on the readout", at_least=0.0, below=1.0)
    variational_dropout: bool = opt(False, "one mask for all positions of a sentence (Gal and Ghahramani 2016)")
    word_dropout: float = opt(0.0, "leave out whole tokens that are read, on both sides", at_least=0.0, below=1.0)
    init: str = opt(
        "xavier",
        "how parameters start (Glorot 2010: xavier; Saxe 2014: orthogonal)",
        choices=("uniform", "normal", "truncated-normal", "xavier", "orthogonal"),
    )
    init_scale: float = opt(0.08, "uniform in +-scale, or standard deviation of the two normals", at_least=0.0)
    forget_bias: float = opt(1.0, "start of the LSTM's forget-gate bias (Jozefowicz et al. 2015)")

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.bidirectional and self.hidden_size % 2:
            raise ConfigError(
                f"--hidden-size must be even for a bidirectional encoder, but is {self.hidden_size}",
                "Use an even size or --no-bidirectional",
            )
        is_fixed_vector = self.arch in ("sutskever", "cho")
        if is_fixed_vector and self.attention != "none":
            raise ConfigError(
                f"--arch {self.arch} reads the source as one fixed vector, but --attention is {self.attention}",
                "Leave --attention out, or use --arch gnmt, luong or bahdanau",
            )
        if not is_fixed_vector and self.attention == "none":
            raise ConfigError(
                f"--arch {self.arch} attends to the source, but --attention is none",
                "For the source as one fixed vector use --arch sutskever or cho",
            )
        if self.input_feeding and self.arch != "luong":
            raise ConfigError(f"--input-feeding is for --arch luong, but that is {self.arch}", "Leave it out")
        if self.reverse_source and self.bidirectional:
            raise ConfigError(
                "--reverse-source and --bidirectional together make no sense: both ends are read from already",
                "Leave one out (--no-reverse-source, --no-bidirectional)",
            )
        if self.arch == "sutskever" and self.decoder_init == "zero":
            raise ConfigError(
                "--decoder-init zero hides the source from --arch sutskever, which sees it in the first state only",
                "Use last or mean",
            )

    @classmethod
    def with_presets(cls, values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
        """See `Config.with_presets`: what --arch sets."""
        presets = ARCHITECTURES.get(values["arch"], {})
        return {name: value if name in given else presets.get(name, value) for name, value in values.items()}


LOSSES = {
    "cross-entropy": "each token of the reference, given those before it",
    "greedy": "given what greedy search has said before it (--teacher-forcing: now and then the reference)",
    "beam": "the reference ahead of a beam's rivals, by a margin of logits (Wiseman and Rush 2016)",
    "risk": "expected 1 - reward over candidate translations (Shen et al. 2016)",
    "max-margin": "the best candidate ahead of the model's favourite (Edunov et al. 2018)",
    "sequence-nll": "the probability of the best candidate among the others (Edunov et al. 2018)",
}
LOSSES_OF_LOGITS = ("beam",)  # scores of models trained with these are logits, not log-probabilities
OF_CANDIDATES = ("risk", "max-margin", "sequence-nll")
LOSS_OPTIONS: dict[str, tuple[str, ...]] = {  # the losses that an option is for
    "loss_mix": ("greedy", "beam", *OF_CANDIDATES),
    "teacher_forcing": ("greedy",),
    "teacher_forcing_decay": ("greedy",),
    "teacher_forcing_half": ("greedy",),
    "greedy_passes": ("greedy",),
    "candidates": ("beam", *OF_CANDIDATES),
    "beam_growth": ("beam",),
    "beam_cost": ("beam",),
    "candidates_by": OF_CANDIDATES,
    "with_reference": OF_CANDIDATES,
    "reward": OF_CANDIDATES,
    "risk_alpha": ("risk",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """How a model is trained, for how long, and what is kept."""

    data: str = opt("data-bin", "the data directory", env="NMT_DATA", may_change=True)
    model: str = opt("model", "the model directory", env="NMT_MODEL", may_change=True)
    verify: bool = opt(False, "hash all files of the data directory first, large ones too", may_change=True)
    resume: bool = opt(False, "go on where this directory stopped; start if nothing is there", may_change=True)
    overwrite: bool = opt(False, "replace a model directory that is there", may_change=True)
    nproc: int = opt(1, "processes that train together on this machine", at_least=1, may_change=True)
    timeout: float = opt(
        600.0, "the longest that one of several waits for another [seconds]", at_least=1.0, may_change=True
    )
    dry_run: bool = opt(
        False, "say what training will take, from a few updates, and leave the disk as it is", may_change=True
    )
    init_from: str = opt("", "model directory whose weights to start from; its shape is the default")
    # loss
    loss: str = opt("cross-entropy", "what training makes small: see below", choices=tuple(LOSSES))
    loss_mix: float = opt(0.0, "share of cross-entropy beside another loss", at_least=0.0, below=1.0)
    teacher_forcing: float = opt(
        0.0, "greedy: probability that the reference is read, or the lowest of a schedule", at_least=0.0, at_most=1.0
    )
    teacher_forcing_decay: str = opt(
        "none",
        "greedy: how --teacher-forcing falls from 1 (Bengio et al. 2015)",
        choices=("none", "linear", "exponential", "inverse-sigmoid"),
    )
    teacher_forcing_half: int = opt(1000, "greedy: the schedule's formula is 1/2 after so many updates", at_least=1)
    greedy_passes: int = opt(0, "greedy: 0: exact, step by step; 2 or more: so many fused passes", at_least=0)
    candidates: int = opt(6, "beam: hypotheses kept; risk, max-margin, sequence-nll: candidates", at_least=1)
    beam_growth: int = opt(0, "beam: from 2 on, one more every so many; 0: all at once [updates]", at_least=0)
    beam_cost: str = opt("one", "beam: weight of a violation: 1, or 1 - sentence BLEU", choices=("one", "bleu"))
    candidates_by: str = opt("beam", "risk, max-margin, sequence-nll: how they are found", choices=("beam", "samples"))
    with_reference: bool = opt(False, "risk, max-margin, sequence-nll: the reference is a candidate")
    reward: str = opt("bleu", "risk, max-margin, sequence-nll: of a sentence", choices=("bleu", "chrf"))
    risk_alpha: float = opt(1.0, "risk: sharpness of the distribution over candidates", at_least=0.0)
    # start
    source_vectors: str = opt("", "word vectors that source embeddings start from: word2vec's or GloVe's text format")
    target_vectors: str = opt("", "likewise for the target")
    # optimiser
    optimizer: str = opt("adam", "what makes an update of a gradient", choices=("adam", "sgd", "adagrad"))
    learning_rate: float = opt(0.001, "learning rate at its highest (Adam's size; SGD wants some 1.0)", at_least=0.0)
    warmup: int = opt(0, "linear warm-up of the learning rate [updates]", at_least=0)
    decay: str = opt(
        "plateau",
        "after warm-up: none; inverse-sqrt; linear to 0 at --max-updates; plateau: cut when validation stalls; "
        "step: cut at --decay-start and every --decay-every",
        choices=("none", "inverse-sqrt", "linear", "plateau", "step"),
    )
    decay_factor: float = opt(0.5, "factor of a plateau's or a step's cut", at_least=0.0, below=1.0)
    decay_start: float = opt(5.0, "the first cut of --decay step comes after so long [epochs]", at_least=0.0)
    decay_every: float = opt(1.0, "the others follow after so long each [epochs]", at_least=0.001)
    decay_patience: int = opt(1, "validations without a better one before a plateau cut", at_least=1)
    beta2: float = opt(0.999, "Adam's decay of the squared gradient", at_least=0.0, below=1.0)
    weight_decay: float = opt(0.0, "shrink weights; Adam's apart from the gradient (Loshchilov 2019)", at_least=0.0)
    ema: float = opt(
        0.0, "validate and keep a running mean of the weights with this decay; 0: none", at_least=0.0, below=1.0
    )
    clip_norm: float = opt(1.0, "cut the gradient to this norm; 0: never", at_least=0.0)
    label_smoothing: float = opt(0.1, "share of uniform in the target (Szegedy et al. 2016)", at_least=0.0, below=1.0)
    accumulate: int = opt(1, "batches whose gradients make one update", at_least=1)
    # data
    batch_tokens: int = opt(
        2048,
        "sentences times the longest side, padding counted; auto: on a GPU as many as fit, up to 65,536 [tokens/batch]",
        at_least=0,
        auto=True,
    )
    mix: str = opt("", "pairs of each training text beside those of the others, whatever their sizes: NAME=WEIGHT,...")
    subword_alpha: float = opt(0.0, "sample segmentations: unigram's smoothing, BPE's dropout; 0: none", at_least=0.0)
    loader_workers: int = opt(1, "processes that prepare batches; 0: none", at_least=0, may_change=True)
    # length
    max_epochs: int = opt(100, "stop after so many epochs; 0: no limit [epochs]", at_least=0, may_change=True)
    max_updates: int = opt(0, "stop after so many updates; 0: no limit [updates]", at_least=0, may_change=True)
    time_limit: float = opt(0.0, "stop, saved, after so long; 0: no limit [minutes]", at_least=0.0, may_change=True)
    patience: int = opt(5, "stop after so many validations without a better one; 0: never", at_least=0, may_change=True)
    # validation
    validation_metric: str = opt("bleu", "what is best", choices=("loss", "bleu", "chrf"))
    validate_every: int = opt(0, "validate every so many updates; 0: after each epoch [updates]", at_least=0)
    validation_beam: int = opt(1, "beam of validation's translations; 1: greedy", at_least=1)
    show: int = opt(3, "validation translations shown each time", at_least=0, may_change=True)
    # checkpoints
    save_every: int = opt(
        1000, "save model/last every so many updates; 0: at validations only", at_least=0, may_change=True
    )
    keep: int = opt(1, "the latest checkpoints of validations kept", at_least=0, may_change=True)
    average: int = opt(0, "checkpoints averaged into the final model; 0: none", at_least=0, may_change=True)
    average_of: str = opt("best", "which are averaged: the best or the last", choices=("best", "last"), may_change=True)
    # machine
    device: str = opt("auto", DEVICES_HELP, may_change=True)
    precision: str = opt("auto", "auto: bf16 where it is faster", choices=PRECISIONS)
    threads: int = opt(0, "CPU threads; 0: one for each core", at_least=0, may_change=True)
    seed: int = opt(1, "fixes parameters, order of the data, dropout and sampling", at_least=0)
    deterministic: bool = opt(False, "on a GPU too, only algorithms that give the same each time; slower")
    max_skips: int = opt(
        10, "give up after so many updates in a row whose gradient is not finite", at_least=1, may_change=True
    )
    if_save_fails: str = opt(
        "stop", "disk full and the like: stop, or go on and try the next", choices=("stop", "go-on"), may_change=True
    )
    log_every: int = opt(100, "a line of log every so many updates [updates]", at_least=1, may_change=True)
    tensorboard: str = opt("", "write TensorBoard events into this directory", may_change=True)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite contradict each other", "Choose one")
        if self.decay == "linear" and not self.max_updates:
            raise ConfigError("--decay linear needs to know where it ends", "Add --max-updates")
        self._check_loss_options()
        if self.init_from and (self.source_vectors or self.target_vectors):
            option = "--source-vectors" if self.source_vectors else "--target-vectors"
            raise ConfigError(f"--init-from and {option} both say how embeddings start", "Leave one out")

    def _check_loss_options(self) -> None:
        """See to it that each option of a loss is for the one that was chosen, and has an effect.

        Raises:
            ConfigError: one is not, or has none.
        """
        for config_field in dataclasses.fields(self):
            losses = LOSS_OPTIONS.get(config_field.name)
            if losses and self.loss not in losses and getattr(self, config_field.name) != config_field.default:
                raise ConfigError(
                    f"{option_name(config_field.name)} is for --loss {', '.join(losses)}, but that is {self.loss}",
                    "Leave it out",
                )
        if self.loss not in ("cross-entropy", "greedy") and not self.loss_mix and self.label_smoothing != 0.1:
            raise ConfigError(
                f"--label-smoothing has no effect on --loss {self.loss} without --loss-mix", "Leave it out"
            )
        if self.loss == "greedy" and self.teacher_forcing == 1:
            raise ConfigError("--teacher-forcing 1 reads the reference only", "Use less, or --loss cross-entropy")
        if self.beam_growth and self.candidates <= 2:
            raise ConfigError(
                f"--beam-growth starts with 2, but --candidates is {self.candidates}", "Use more candidates"
            )
        if self.loss in LOSSES_OF_LOGITS and self.validation_metric == "loss":
            raise ConfigError(
                f"--validation-metric loss is of log-probabilities, but --loss {self.loss} is of logits",
                "Use bleu or chrf",
            )
        if self.greedy_passes == 1:
            raise ConfigError("--greedy-passes 1 reads the reference only", "Use 0, 2 or more, or --loss cross-entropy")
        if self.teacher_forcing_half != 1000 and self.teacher_forcing_decay == "none":
            raise ConfigError("--teacher-forcing-half has no effect without --teacher-forcing-decay", "Add it")
        if self.loss in OF_CANDIDATES and self.candidates == 1 and not self.with_reference:
            raise ConfigError(f"--loss {self.loss} compares candidates, but --candidates is 1", "Use 2 at least")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig(Config):
    """How a translation is looked for."""

    beam: int = opt(5, "hypotheses kept for a sentence; 1: greedy", at_least=1)
    length_penalty: float = opt(1.0, "alpha of Wu et al. 2016, eq. 14; 0: none", at_least=0.0)
    coverage_penalty: float = opt(0.0, "beta of Wu et al. 2016, eq. 14; 0: none", at_least=0.0)
    max_length: float = opt(3.0, "longest output, in lengths of its source, plus 10 [tokens]", at_least=0.0)
    max_source_length: int = opt(1024, "longer lines are cut, with a warning [tokens]", at_least=1)
    batch_tokens: int = opt(
        0,
        "sentences times beam times longest source; auto: 4,096 on a CPU, 32,768 on a GPU [tokens/batch]",
        at_least=0,
        auto=True,
    )
    sample: bool = opt(False, "draw each token from the model's distribution instead of searching")
    top_k: int = opt(0, "sample from the k most probable tokens only; 0: all", at_least=0)
    top_p: float = opt(1.0, "sample from the fewest tokens that hold this probability", at_least=0.0, at_most=1.0)
    temperature: float = opt(1.0, "sample from probability ** (1 / temperature)", at_least=0.01)
    seed: int = opt(1, "fixes what is sampled", at_least=0)

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ConfigError(f"--beam must be at least 1, but is {self.beam}", "Use --beam 1 for greedy search")
        Config.__post_init__(self)
        if not self.sample and (self.top_k, self.top_p, self.temperature) != (0, 1.0, 1.0):
            raise ConfigError("--top-k, --top-p and --temperature have no effect without --sample", "Add --sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateConfig(Config):
    """Where lines come from and go to, and on what machine."""

    files: tuple[str, ...] = opt((), "text to translate; none, or -: stdin", argument=True)
    model: tuple[str, ...] = opt(("model",), "model directory; several make an ensemble", env="NMT_MODEL")
    verify: bool = opt(False, "hash the weights first, large ones too")
    checkpoint: str = opt("", "checkpoint of the directory: last, best, or update-00001000")
    shortlist: bool = opt(False, "choose among the likely translations of each line's pieces; scores are among these")
    nbest: int = opt(0, "print the n best in Moses' format; 0: the best, bare", at_least=0)
    alignments: str = opt("", "write each line's attention to this file")
    alignment_format: str = opt("pharaoh", "pharaoh: 0-0 1-2; json: all weights", choices=("pharaoh", "json"))
    buffer_lines: int = opt(2000, "lines read and sorted by length at a time [lines]", at_least=1)
    workers: int = opt(
        0,
        "processes that translate, on a CPU; 0: one, or as many as cores for many lines",
        at_least=0,
    )
    gpus: int = opt(1, "GPUs that translate, each in a process", at_least=1)
    device: str = opt("auto", DEVICES_HELP)
    precision: str = opt(
        "fp32",
        "auto: bf16 where it is faster; int8: on a CPU, the fastest, within rounding of the others",
        choices=(*PRECISIONS, "int8"),
    )
    threads: int = opt(0, "CPU threads; 0: one for each core", at_least=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig(Config):
    """What is scored, against what, and how."""

    hypotheses: tuple[str, ...] = opt((), "translations; none, or -: stdin", argument=True)
    ref: tuple[str, ...] = opt((), "reference translations; several for several references", required=True)
    target_lang: str = opt("", "language of the text: decides how BLEU and TER cut it into tokens")
    tokenize: str = opt(
        "auto",
        "BLEU's tokenizer; auto: zh for Chinese, ja-mecab for Japanese, else 13a",
        choices=("auto", "13a", "zh", "ja-mecab", "char", "intl", "none"),
    )
    lowercase: bool = opt(False, "ignore case in BLEU and chrF2, as TER always does")
    ter: bool = opt(True, "TER too, which is slow where lines are long")
    bootstrap_samples: int = opt(1000, "resamplings of the paired bootstrap of several hypotheses", at_least=1)
    json: bool = opt(False, "print one JSON object")
    model: str = opt("", "model directory: score pairs by forced decoding instead (with --source)")
    source: str = opt("", "source text of --model")
    batch_tokens: int = opt(4096, "of --model: sentences times longest side [tokens/batch]", at_least=1)
    device: str = opt("auto", f"of --model: {DEVICES_HELP}")
    precision: str = opt("fp32", "of --model: auto: bf16 where it is faster", choices=PRECISIONS)
    threads: int = opt(0, "of --model: CPU threads; 0: one for each core", at_least=0)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if bool(self.model) != bool(self.source):
            raise ConfigError("--model and --source go together", "Name both, or neither to score text")
        inputs = (*self.ref, *((self.source,) if self.model else self.hypotheses or ("-",)))
        if inputs.count("-") > 1:
            raise ConfigError("stdin (-, or no translations named) can be read once only", "Name files for the others")
        for name in self.hypotheses:
            if self.hypotheses.count(name) > 1:
                raise ConfigError(f"{name} is named twice", "Name each system once")
        if self.model and self.hypotheses:
            raise ConfigError(f"--model scores --ref, not {self.hypotheses[0]}", "Leave out the translations")
        if self.model and len(self.ref) != 1:
            raise ConfigError(f"--model takes one --ref, but there are {len(self.ref)}", "Name one")
