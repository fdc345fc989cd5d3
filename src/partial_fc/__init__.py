"""Partial FC: face recognition trained over millions of identities, on MXNet and Horovod (arXiv 2010.05222)."""

import os

# MXNet's oneDNN fusion of layers fails in networks bound without gradients, from the second batch on ("Check failed:
# !IsMKLDNNData()"), and does nothing for those bound with them.
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
