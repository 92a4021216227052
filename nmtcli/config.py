"""The options of every command: each field gives the type, default and bounds of one option, and its help text.

The command-line option, the key in a recipe's TOML and the stored JSON are all derived from the field: `batch_tokens`
is `--batch-tokens`, `batch_tokens = 4096` in TOML, and `"batch_tokens": 4096` in `config.json`. Configs are frozen:
they are checked once, at construction, and never change. This module needs the standard library only, so that
`nmt --help` is fast.
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
DATA = opt("data-bin", "data directory", env="NMT_DATA")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessConfig(Config):
    """Options for preprocessing, which turns raw parallel text into a data directory."""

    source_lang: str = opt("", "source language, the suffix of the source files", short="s", required=True)
    target_lang: str = opt("", "target language, the suffix of the target files", short="t", required=True)
    train: tuple[str, ...] = opt((), "training text: PREFIX.<lang>[.gz|.bz2|.xz|.zst], or a .tsv file", required=True)
    valid: str = opt("", "validation text, in the same formats; never cleaned; required without --append")
    test: tuple[str, ...] = opt((), "test text, in the same formats; never cleaned")
    data: str = DATA
    subword: str = opt("unigram", "kind of units; none: text is tokenised, words are the units", choices=SUBWORDS)
    vocab_size: int = opt(8000, "largest size of each vocabulary; 0: no limit (word, none only) [pieces]", at_least=0)
    joint: bool = opt(True, "one vocabulary for both languages, or one for each", off="--separate")
    source_model: str = opt("", "existing SentencePiece model for the source")
    target_model: str = opt("", "existing SentencePiece model for the target")
    user_words: str = opt("", "file of words, one per line, that become pieces if in the text (unigram, bpe)")
    user_words_min: int = opt(5, "frequency in the training text from which a user word becomes a piece", at_least=1)
    normalization: str = opt("identity", "SentencePiece's normalisation rule", choices=NORMALIZATIONS)
    character_coverage: float = opt(1.0, "share of characters that the vocabulary covers", at_least=0.9, at_most=1.0)
    sentences_for_vocab: int = opt(100_000, "size of the sample to learn the vocabulary from [pairs]", at_least=1)
    max_length: int = opt(250, "drop training pairs with a longer side; 0: no limit [tokens]", at_least=0)
    max_ratio: float = opt(0.0, "drop training pairs with a larger length ratio; 0: no limit", at_least=0.0)
    dedup: bool = opt(False, "drop duplicate training pairs")
    workers: int = opt(0, "processes that read and encode; 0: one for each core", at_least=0)
    engine: str = opt("local", "run the workers on this machine, or on a Ray cluster", choices=("local", "ray"))
    ray_address: str = opt("", "Ray cluster, as for ray.init; default: RAY_ADDRESS, or this machine alone")
    overwrite: bool = opt(False, "replace an existing data directory")
    append: bool = opt(False, "add the training text to an existing data directory, encoded with its subword models")

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if not self.valid and not self.append:
            raise ConfigError("Missing option '--valid'", "Only --append works without it")
        if self.append and self.overwrite:
            raise ConfigError("--append and --overwrite contradict each other", "Choose one")
        if self.ray_address and self.engine != "ray":
            raise ConfigError("--ray-address needs --engine ray", "Give both, or leave it out")
        if self.source_lang == self.target_lang:
            raise ConfigError(f"source and target language are both `{self.source_lang}`", "Name two languages")
        if self.vocab_size == 0 and self.subword not in ("word", "none"):
            raise ConfigError(f"--vocab-size 0 needs --subword word or none, but --subword is {self.subword}")
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
                f"--user-words has no effect with {option}", "Learn a unigram or bpe vocabulary, or leave it out"
            )
        if bool(self.source_model) != bool(self.target_model):
            raise ConfigError("--source-model and --target-model go together", "Name both; the same file if joint")


# Defaults that each --arch sets; options and recipes override them. The architectures are built in model/decoder.py.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gnmt": {},
    "luong": {"input_feeding": True, "bidirectional": False, "reverse_source": True, "residual": False},
    "bahdanau": {"cell": "gru", "encoder_layers": 1, "decoder_layers": 1, "attention": "additive"},
    "sutskever": {"attention": "none", "bidirectional": False, "reverse_source": True, "residual": False},
    "cho": {"cell": "gru", "encoder_layers": 1, "decoder_layers": 1, "attention": "none", "bidirectional": False},
}
ARCHITECTURE_SOURCES = {
    "gnmt": "attention between the first and the upper layers (Wu et al. 2016; NVIDIA's GNMT v2)",
    "luong": "attention above the top layer (Luong et al. 2015)",
    "bahdanau": "attention before the recurrent layers (Bahdanau et al. 2015)",
    "sutskever": "no attention; the source vector is the decoder's initial state (Sutskever et al. 2014)",
    "cho": "no attention; the source vector is an input of every decoder step (Cho et al. 2014)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Config):
    """Options for a model: architecture, sizes and initialisation; the data determines the vocabulary sizes."""

    arch: str = opt("gnmt", "architecture, which sets other defaults (see below)", choices=tuple(ARCHITECTURES))
    cell: str = opt("lstm", "recurrent cell of encoder and decoder", choices=("lstm", "gru", "rnn"))
    encoder_layers: int = opt(2, "recurrent layers of the encoder", at_least=1, at_most=64)
    decoder_layers: int = opt(2, "recurrent layers of the decoder", at_least=1, at_most=64)
    hidden_size: int = opt(512, "width of the recurrent layers, both directions together", at_least=1)
    embedding_size: int = opt(256, "width of the embeddings and of the readout", at_least=1)
    bidirectional: bool = opt(True, "bidirectional encoder, half the width in each direction")
    reverse_source: bool = opt(False, "a unidirectional encoder reads the source in reverse")
    residual: bool = opt(True, "residual connections around all layers above the first")
    decoder_init: str = opt(
        "last",
        "initial decoder state: from the encoder's last outputs, from their mean, or zero",
        choices=("last", "mean", "zero"),
    )
    attention: str = opt(
        "general", "attention score; none: sutskever and cho only", choices=("general", "dot", "additive", "none")
    )
    scale_attention: bool = opt(
        True, "divide dot and general scores by the square root of their width (Vaswani et al. 2017)"
    )
    input_feeding: bool = opt(False, "luong: feed the last readout to the first layer; training then loops over time")
    tie_embeddings: str = opt(
        "auto",
        "share the output projection with the target embedding (target), or also with the source embedding (all); "
        "auto: all if the vocabulary is joint, otherwise target",
        choices=("auto", "all", "target", "none"),
    )
    scale_embeddings: bool = opt(True, "multiply embeddings by the square root of their width (Vaswani et al. 2017)")
    dropout: float = opt(0.3, "dropout on embeddings, between layers and on the readout", at_least=0.0, below=1.0)
    variational_dropout: bool = opt(False, "one dropout mask for all positions of a sentence (Gal and Ghahramani 2016)")
    word_dropout: float = opt(0.0, "probability of dropping an input token, on both sides", at_least=0.0, below=1.0)
    init: str = opt(
        "xavier",
        "initialisation of parameters (xavier: Glorot 2010; orthogonal: Saxe 2014)",
        choices=("uniform", "normal", "truncated-normal", "xavier", "orthogonal"),
    )
    init_scale: float = opt(
        0.08, "half-width of the uniform, or standard deviation of the normal initialisations", at_least=0.0
    )
    forget_bias: float = opt(1.0, "initial bias of the LSTM's forget gate (Jozefowicz et al. 2015)")

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
            raise ConfigError(f"--input-feeding is for --arch luong, but --arch is {self.arch}", "Leave it out")
        if self.reverse_source and self.bidirectional:
            raise ConfigError(
                "--reverse-source has no use with --bidirectional, which reads the source from both ends",
                "Leave one out (--no-reverse-source, --no-bidirectional)",
            )
        if self.arch == "sutskever" and self.decoder_init == "zero":
            raise ConfigError(
                "--decoder-init zero hides the source from --arch sutskever, which sees it in the initial state only",
                "Use last or mean",
            )

    @classmethod
    def with_presets(cls, values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
        """Apply the defaults that --arch sets; see `Config.with_presets`."""
        presets = ARCHITECTURES.get(values["arch"], {})
        return {name: value if name in given else presets.get(name, value) for name, value in values.items()}


LOSSES = {
    "cross-entropy": "each reference token, given the reference before it",
    "greedy": "each reference token, given the greedy output before it (--teacher-forcing mixes in the reference)",
    "beam": "margin of the reference over rivals in the beam, in logits (Wiseman and Rush 2016)",
    "risk": "expected 1 - reward over candidate translations (Shen et al. 2016)",
    "max-margin": "margin of the best candidate over the model's favourite (Edunov et al. 2018)",
    "sequence-nll": "negative log-likelihood of the best candidate among all candidates (Edunov et al. 2018)",
}
LOSSES_OF_LOGITS = ("beam",)  # models trained with these losses score by logits, not by log-probabilities
OF_CANDIDATES = ("risk", "max-margin", "sequence-nll")
LOSS_OPTIONS: dict[str, tuple[str, ...]] = {  # the losses that each option applies to
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
    """Options for training: loss, optimiser, data, length, validation, checkpoints and machine."""

    data: str = opt("data-bin", "data directory", env="NMT_DATA", may_change=True)
    model: str = opt("model", "model directory", env="NMT_MODEL", may_change=True)
    verify: bool = opt(False, "check the hashes of all data files first, of large ones too", may_change=True)
    resume: bool = opt(False, "resume the run in the model directory, or start one if there is none", may_change=True)
    overwrite: bool = opt(False, "replace an existing model directory", may_change=True)
    nproc: int = opt(1, "processes that train together on this machine", at_least=1, may_change=True)
    timeout: float = opt(
        600.0, "longest time that one process waits for another [seconds]", at_least=1.0, may_change=True
    )
    dry_run: bool = opt(
        False, "run a few updates, print estimates of time and memory, and write nothing", may_change=True
    )
    init_from: str = opt("", "model directory to take initial weights from; its architecture is the default")
    # loss
    loss: str = opt("cross-entropy", "training loss (see below)", choices=tuple(LOSSES))
    loss_mix: float = opt(0.0, "share of cross-entropy mixed into another loss", at_least=0.0, below=1.0)
    teacher_forcing: float = opt(
        0.0, "greedy: probability of feeding the reference; with decay, its minimum", at_least=0.0, at_most=1.0
    )
    teacher_forcing_decay: str = opt(
        "none",
        "greedy: decay of --teacher-forcing from 1 (Bengio et al. 2015)",
        choices=("none", "linear", "exponential", "inverse-sigmoid"),
    )
    teacher_forcing_half: int = opt(1000, "greedy: time until the decay formula reaches 1/2 [updates]", at_least=1)
    greedy_passes: int = opt(0, "greedy: number of fused passes, 2 or more; 0: exact, step by step", at_least=0)
    candidates: int = opt(6, "beam: beam size; risk, max-margin, sequence-nll: candidates per sentence", at_least=1)
    beam_growth: int = opt(
        0, "beam: grow from 2 hypotheses by one at this interval; 0: full beam [updates]", at_least=0
    )
    beam_cost: str = opt("one", "beam: weight of a violation: 1, or 1 - sentence BLEU", choices=("one", "bleu"))
    candidates_by: str = opt(
        "beam", "risk, max-margin, sequence-nll: candidates from beam search or sampling", choices=("beam", "samples")
    )
    with_reference: bool = opt(False, "risk, max-margin, sequence-nll: add the reference to the candidates")
    reward: str = opt("bleu", "risk, max-margin, sequence-nll: sentence-level reward", choices=("bleu", "chrf"))
    risk_alpha: float = opt(1.0, "risk: sharpness of the distribution over candidates", at_least=0.0)
    # start
    source_vectors: str = opt("", "pretrained source embeddings (word vectors in word2vec's or GloVe's text format)")
    target_vectors: str = opt("", "pretrained target embeddings (in the same formats)")
    # optimiser
    optimizer: str = opt("adam", "optimiser", choices=("adam", "sgd", "adagrad"))
    learning_rate: float = opt(0.001, "peak learning rate (for Adam; SGD needs about 1.0)", at_least=0.0)
    warmup: int = opt(0, "linear warm-up of the learning rate [updates]", at_least=0)
    decay: str = opt(
        "plateau",
        "learning rate after warm-up: none; inverse-sqrt; linear to 0 at --max-updates; plateau: cut when validation "
        "stalls; step: cut at --decay-start and every --decay-every",
        choices=("none", "inverse-sqrt", "linear", "plateau", "step"),
    )
    decay_factor: float = opt(0.5, "factor by which plateau and step cut the learning rate", at_least=0.0, below=1.0)
    decay_start: float = opt(5.0, "time of the first cut of --decay step [epochs]", at_least=0.0)
    decay_every: float = opt(1.0, "time between later cuts of --decay step [epochs]", at_least=0.001)
    decay_patience: int = opt(1, "validations without improvement before a plateau cut", at_least=1)
    beta2: float = opt(0.999, "Adam's decay rate of the squared gradient", at_least=0.0, below=1.0)
    weight_decay: float = opt(0.0, "weight decay; decoupled for Adam (Loshchilov 2019)", at_least=0.0)
    ema: float = opt(
        0.0, "decay of a moving average of the weights, which is validated and saved; 0: none", at_least=0.0, below=1.0
    )
    clip_norm: float = opt(1.0, "clip the gradient to this norm; 0: no clipping", at_least=0.0)
    label_smoothing: float = opt(0.1, "label smoothing (Szegedy et al. 2016)", at_least=0.0, below=1.0)
    accumulate: int = opt(1, "batches per update (gradient accumulation)", at_least=1)
    # data
    batch_tokens: int = opt(
        2048,
        "batch size: sentences times the longest side, padding included; auto: as many as fit on the GPU, up to 65,536 "
        "[tokens/batch]",
        at_least=0,
        auto=True,
    )
    mix: str = opt("", "sampling weight of each training text: NAME=WEIGHT,...")
    subword_alpha: float = opt(0.0, "subword sampling: unigram's alpha, or BPE-dropout's rate; 0: none", at_least=0.0)
    loader_workers: int = opt(1, "processes that prepare batches; 0: the trainer does", at_least=0, may_change=True)
    # length
    max_epochs: int = opt(100, "stop after this many epochs; 0: no limit [epochs]", at_least=0, may_change=True)
    max_updates: int = opt(0, "stop after this many updates; 0: no limit [updates]", at_least=0, may_change=True)
    time_limit: float = opt(0.0, "save and stop after this time; 0: no limit [minutes]", at_least=0.0, may_change=True)
    patience: int = opt(
        5, "stop after this many validations without improvement; 0: never", at_least=0, may_change=True
    )
    # validation
    validation_metric: str = opt("bleu", "metric for best checkpoint and patience", choices=("loss", "bleu", "chrf"))
    validate_every: int = opt(0, "validation interval; 0: after each epoch [updates]", at_least=0)
    validation_beam: int = opt(1, "beam size for validation; 1: greedy", at_least=1)
    show: int = opt(3, "translations shown at each validation [sentences]", at_least=0, may_change=True)
    # checkpoints
    save_every: int = opt(
        1000, "interval for saving model/last; 0: at validations only [updates]", at_least=0, may_change=True
    )
    keep: int = opt(1, "number of latest validation checkpoints to keep", at_least=0, may_change=True)
    average: int = opt(0, "number of checkpoints to average into the final model; 0: none", at_least=0, may_change=True)
    average_of: str = opt("best", "average the best or the last checkpoints", choices=("best", "last"), may_change=True)
    # machine
    device: str = opt("auto", DEVICES_HELP, may_change=True)
    precision: str = opt("auto", "numeric precision; auto: bf16 where it is faster", choices=PRECISIONS)
    threads: int = opt(0, "CPU threads; 0: one for each core", at_least=0, may_change=True)
    seed: int = opt(1, "random seed of initialisation, data order, dropout and sampling", at_least=0)
    deterministic: bool = opt(False, "use deterministic algorithms only, on a GPU too; slower")
    max_skips: int = opt(
        10, "give up after this many updates in a row with a non-finite gradient", at_least=1, may_change=True
    )
    if_save_fails: str = opt(
        "stop", "if a save fails (full disk etc.): stop, or go on training", choices=("stop", "go-on"), may_change=True
    )
    log_every: int = opt(100, "interval between log lines [updates]", at_least=1, may_change=True)
    tensorboard: str = opt("", "write TensorBoard events into this directory", may_change=True)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite contradict each other", "Choose one")
        if self.decay == "linear" and not self.max_updates:
            raise ConfigError("--decay linear needs an end, but --max-updates is 0", "Add --max-updates")
        self._check_loss_options()
        if self.init_from and (self.source_vectors or self.target_vectors):
            option = "--source-vectors" if self.source_vectors else "--target-vectors"
            raise ConfigError(f"--init-from and {option} both initialise embeddings", "Leave one out")

    def _check_loss_options(self) -> None:
        """Check that the options of losses apply to the chosen loss and have an effect.

        Raises:
            ConfigError: an option is for another loss, or has no effect.
        """
        for config_field in dataclasses.fields(self):
            losses = LOSS_OPTIONS.get(config_field.name)
            if losses and self.loss not in losses and getattr(self, config_field.name) != config_field.default:
                raise ConfigError(
                    f"{option_name(config_field.name)} is for --loss {', '.join(losses)}, but --loss is {self.loss}",
                    "Leave it out",
                )
        if self.loss not in ("cross-entropy", "greedy") and not self.loss_mix and self.label_smoothing != 0.1:
            raise ConfigError(
                f"--label-smoothing has no effect on --loss {self.loss} without --loss-mix", "Leave it out"
            )
        if self.loss == "greedy" and self.teacher_forcing == 1:
            raise ConfigError("--teacher-forcing 1 feeds the reference only", "Use less, or --loss cross-entropy")
        if self.beam_growth and self.candidates <= 2:
            raise ConfigError(
                f"--beam-growth starts at 2, but --candidates is {self.candidates}", "Use 3 candidates at least"
            )
        if self.loss in LOSSES_OF_LOGITS and self.validation_metric == "loss":
            raise ConfigError(
                f"--validation-metric loss needs log-probabilities, but --loss {self.loss} trains logits",
                "Use bleu or chrf",
            )
        if self.greedy_passes == 1:
            raise ConfigError("--greedy-passes 1 feeds the reference only", "Use 0, 2 or more, or --loss cross-entropy")
        if self.teacher_forcing_half != 1000 and self.teacher_forcing_decay == "none":
            raise ConfigError("--teacher-forcing-half has no effect without --teacher-forcing-decay", "Add it")
        if self.loss in OF_CANDIDATES and self.candidates == 1 and not self.with_reference:
            raise ConfigError(f"--loss {self.loss} compares candidates, but --candidates is 1", "Use 2 at least")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig(Config):
    """Options for the search for translations: beam search, greedy search or sampling."""

    beam: int = opt(5, "beam size; 1: greedy search", at_least=1)
    length_penalty: float = opt(1.0, "length penalty (alpha of Wu et al. 2016, eq. 14); 0: none", at_least=0.0)
    coverage_penalty: float = opt(0.0, "coverage penalty (beta of Wu et al. 2016, eq. 14); 0: none", at_least=0.0)
    max_length: float = opt(3.0, "longest output: this factor times the source length, plus 10 tokens", at_least=0.0)
    max_source_length: int = opt(1024, "longest source; longer lines are cut, with a warning [tokens]", at_least=1)
    batch_tokens: int = opt(
        0,
        "batch size: sentences times beam times longest source; auto: 4,096 on a CPU, 32,768 on a GPU [tokens/batch]",
        at_least=0,
        auto=True,
    )
    sample: bool = opt(False, "sample from the model's distribution instead of searching")
    top_k: int = opt(0, "sample from the k most probable tokens; 0: all", at_least=0)
    top_p: float = opt(
        1.0, "sample from the fewest tokens whose probability adds up to this (nucleus)", at_least=0.0, at_most=1.0
    )
    temperature: float = opt(1.0, "sample from probability ** (1 / temperature)", at_least=0.01)
    seed: int = opt(1, "random seed of sampling", at_least=0)

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ConfigError(f"--beam must be at least 1, but is {self.beam}", "Use --beam 1 for greedy search")
        Config.__post_init__(self)
        if not self.sample and (self.top_k, self.top_p, self.temperature) != (0, 1.0, 1.0):
            raise ConfigError("--top-k, --top-p and --temperature have no effect without --sample", "Add --sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateConfig(Config):
    """Options of `nmt translate` other than those in `SearchConfig`: models, input, output and machine."""

    files: tuple[str, ...] = opt((), "text to translate; none, or -: stdin", argument=True)
    model: tuple[str, ...] = opt(("model",), "model directory; several make an ensemble", env="NMT_MODEL")
    verify: bool = opt(False, "check the hashes of all weights first, of large ones too")
    checkpoint: str = opt("", "checkpoint to use: last, best, or update-00001000")
    shortlist: bool = opt(
        False, "restrict output to likely translations of each line's pieces; scores are normalised over these"
    )
    nbest: int = opt(0, "print an n-best list in Moses' format; 0: only the best translation", at_least=0)
    alignments: str = opt("", "write each line's attention to this file")
    alignment_format: str = opt("pharaoh", "pharaoh: 0-0 1-2; json: all weights", choices=("pharaoh", "json"))
    buffer_lines: int = opt(2000, "lines read and sorted by length at a time [lines]", at_least=1)
    workers: int = opt(
        0, "CPU processes that translate; 0: one, or one for each core if there are many lines", at_least=0
    )
    gpus: int = opt(1, "GPUs that translate, each in a process of its own", at_least=1)
    device: str = opt("auto", DEVICES_HELP)
    precision: str = opt(
        "fp32",
        "numeric precision; auto: bf16 where it is faster; int8: fastest on a CPU, equal within rounding",
        choices=(*PRECISIONS, "int8"),
    )
    threads: int = opt(0, "CPU threads; 0: one for each core", at_least=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig(Config):
    """Options for scoring translations against references with metrics, or sentence pairs with a model."""

    hypotheses: tuple[str, ...] = opt((), "translations; none, or -: stdin", argument=True)
    ref: tuple[str, ...] = opt((), "reference translations; give several for multiple references", required=True)
    target_lang: str = opt("", "language of the translations, which determines the tokenizer of BLEU and TER")
    tokenize: str = opt(
        "auto",
        "BLEU's tokenizer; auto: zh for Chinese, ja-mecab for Japanese, otherwise 13a",
        choices=("auto", "13a", "zh", "ja-mecab", "char", "intl", "none"),
    )
    lowercase: bool = opt(False, "ignore case in BLEU and chrF2, as TER always does")
    ter: bool = opt(True, "compute TER, which is slow for long lines")
    bootstrap_samples: int = opt(1000, "samples of the paired bootstrap test of several systems", at_least=1)
    json: bool = opt(False, "print one JSON object")
    model: str = opt("", "model directory: score --source and --ref by forced decoding instead")
    source: str = opt("", "with --model: source text")
    batch_tokens: int = opt(4096, "with --model: batch size, sentences times longest side [tokens/batch]", at_least=1)
    device: str = opt("auto", f"with --model: {DEVICES_HELP}")
    precision: str = opt("fp32", "with --model: numeric precision; auto: bf16 where it is faster", choices=PRECISIONS)
    threads: int = opt(0, "with --model: CPU threads; 0: one for each core", at_least=0)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if bool(self.model) != bool(self.source):
            raise ConfigError("--model and --source go together", "Name both, or neither to score text")
        inputs = (*self.ref, *((self.source,) if self.model else self.hypotheses or ("-",)))
        if inputs.count("-") > 1:
            raise ConfigError("stdin (-, or no translations named) can be read only once", "Name files for the others")
        for name in self.hypotheses:
            if self.hypotheses.count(name) > 1:
                raise ConfigError(f"{name} is named twice", "Name each system once")
        if self.model and self.hypotheses:
            raise ConfigError(f"--model scores --ref, not {self.hypotheses[0]}", "Leave out the translations")
        if self.model and len(self.ref) != 1:
            raise ConfigError(f"--model takes one --ref, but there are {len(self.ref)}", "Name one")
