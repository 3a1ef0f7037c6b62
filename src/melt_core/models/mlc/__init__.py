"""MLC model directories, made from GGUF files and from directories of Hugging Face: `convert.convert`.

Nothing is imported here: names of files, quantisations and targets are asked for where NumPy is not needed.
"""
