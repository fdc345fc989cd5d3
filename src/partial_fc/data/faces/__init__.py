"""Synthetic faces: who (`identity`), the shapes (`shapes`, `model`), one image (`conditions`, `drawing`)."""
