"""Embeddings of benchmark images, and the numbers that the benchmarks' protocols make of them."""
