"""Partial FC: face recognition trained over millions of identities, on MXNet and Horovod (arXiv 2010.05222)."""

import os

# MXNet says at every binding of a network which fusion of layers it uses.
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
