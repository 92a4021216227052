"""The machine of the tests: one thread of a CPU, in the precision of the weights."""

import contextlib

import torch

from nmtcli.training.machine import Machine

ON_CPU = Machine(torch.device("cpu"), "fp32", contextlib.nullcontext, 1)
