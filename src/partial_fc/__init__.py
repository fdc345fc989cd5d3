"""Partial FC (arXiv 2010.05222): face recognition trained over millions of identities, on MXNet and Horovod."""
